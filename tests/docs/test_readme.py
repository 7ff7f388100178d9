"""The README names what there is, and its path from images to a detector works as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import get_args

import pytest

from istd.cli import app as cli
from istd.engine.config import HypergradientName
from istd.engine.presets import METHOD_PRESETS
from istd.models import list_models

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WALKTHROUGH = (ROOT / "docs" / "istd" / "walkthrough.md").read_text(encoding="utf-8")

SMALLER = {
    "synth": "--train 8 --val 2 --test 2 --height 64 --width 64",
    "annotate": "--no-open --port 0",
    "train": "--epochs 2 --crop 32 --batch-size 4 --set evolve_every=1",
}
"""Given again behind the README's own options, so that these count."""

WRITTEN = {
    "synth": "data/toy/images",
    "points": "data/toy/points.csv",
    "train": "runs/toy/results.json",
    "labels": "runs/toy/label-report/evolution.gif",
    "eval": "runs/toy/eval/metrics.json",
    "predict": "runs/toy/found/targets.coco.json",
    "export": "runs/toy/mlclnet.onnx",
}


def commands(text: str) -> list[list[str]]:
    """The `istd` commands of the console blocks in `text`, without comments."""
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))[:1] == ["istd"]]


def path() -> list[list[str]]:
    """The commands of the block below the marker `walkthrough`."""
    _, _, below = README.partition("<!-- walkthrough")
    return commands(below[: below.index("\n```\n") + 5])


def test_the_readme_names_every_choice() -> None:
    names = {*METHOD_PRESETS, *get_args(HypergradientName), *list_models()}
    assert [name for name in sorted(names) if f"`{name}`" not in README] == []


def test_the_readme_names_every_command() -> None:
    names = [command.name for command in cli.app.registered_commands]
    assert [name for name in names if f"| `istd {name}" not in README] == []


def test_the_walkthrough_takes_the_same_steps() -> None:
    assert commands(WALKTHROUGH) == path()


@pytest.mark.slow
def test_the_path_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("istd.annotate.AnnotationServer.serve_forever", _leave)
    steps = path()
    assert [words[1] for words in steps] == [
        "synth", "points", "annotate", "doctor", "train", "labels", "eval", "predict", "export"
    ]  # fmt: skip
    for words in steps:
        name = words[1]
        monkeypatch.setattr(sys, "argv", [*words, *SMALLER.get(name, "").split()])
        assert cli.run() == 0, (name, capsys.readouterr())
        assert name not in WRITTEN or (tmp_path / WRITTEN[name]).exists(), name
    results = json.loads((tmp_path / "runs/toy/results.json").read_text())
    assert {"student", "teacher"} <= set(results["metrics"]["test"])
    assert len(list((tmp_path / "runs/toy/found/overlays").iterdir())) == 12


def _leave(_: object) -> None:
    """What Ctrl-C does to the page."""
    raise KeyboardInterrupt
