"""Every file of results, kept here or written by a benchmark, says how to make it again."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from common.command import shown_command
from detection.report import make_report
from hypergradient import report as hypergradient
from speed import report as speed

from istd._provenance import provenance

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"command", "code", "versions", "machine", "threads", "determinism"}
KEPT = sorted((ROOT / "benchmarks" / "results").rglob("*.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.relative_to(ROOT / "benchmarks").as_posix())
def test_files_kept_in_the_repository(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content.keys() >= KEYS
    assert content["command"].startswith(("python benchmarks/", "istd ", "OMP_NUM_THREADS="))
    unknown = [key for key in KEYS if content[key] is None] + [
        key for key, value in content["code"].items() if value is None
    ]
    assert not unknown or content["provenance_note"], f"{unknown} are not known, and nothing says why"
    for private in ("/home/", "/root/", "/tmp/", "/work/", "/Users/"):
        assert private not in json.dumps(content), private


def test_files_that_benchmarks_write(tmp_path: Path) -> None:
    now: dict[str, Any] = {**provenance("python benchmarks/x.py"), "load": 0.1}
    settings = {"batch": 2, "device": "cpu", "data": "/home/me/sirst", "reference": "", "seed": 4}
    speed.write_results(tmp_path / "speed", [], settings, now)
    hypergradient.write_json(tmp_path / "h" / "results.json", [], [], {"seed": 4}, now)
    hypergradient.write_markdown(tmp_path / "h" / "results.md", [], [], {"seed": 4}, now)
    for name in ("speed", "h"):
        content = json.loads((tmp_path / name / "results.json").read_text())
        assert {**content, **now} == content
        assert content["settings"]["seed"] == 4
        page = (tmp_path / name / "results.md").read_text()
        assert "`python benchmarks/x.py`" in page
        assert "/home/me" not in page + json.dumps(content)
    data = make_report([], "python benchmarks/istd_bench.py", 0).data
    assert data.keys() >= KEYS
    assert data["command"] == "python benchmarks/istd_bench.py"


def test_commands_are_shown_without_paths() -> None:
    typed = ["--data", "/home/me/sirst", "--out=/tmp/a b", "--set", "lr=1e-3", "--reference", "../ref"]
    shown = shown_command("x.py", typed, threads=2)
    assert shown == (
        "OMP_NUM_THREADS=2 python benchmarks/x.py --data DATA --out=OUT --set lr=1e-3 --reference REFERENCE"
    )
    assert shlex.split(shown_command("x.py", ["--only", "a b"]))[-1] == "a b"
