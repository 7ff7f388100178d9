"""The hypergradient benchmark in its quick form."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from common.machine import load_warning
from hypergradient import driver, rows
from hypergradient.cli import main
from hypergradient.methods import METHODS
from hypergradient.peers import Method
from hypergradient.store import Cell

pytest.importorskip("sklearn", reason="the digits need scikit-learn")

pytestmark = pytest.mark.slow
PACKAGES = {"higher": "higher", "torchopt": "torchopt", "hypertorch": "hypergrad", "betty": "betty"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    assert main(["--quick", "--steps", "2", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def found(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "results.json").read_text())["rows"]


def test_a_row_for_each_problem_steps_and_method(found: list[dict[str, Any]]) -> None:
    keys = [(row["problem"], row["steps"], row["method"]) for row in found]
    assert keys == [("digits-mlp", 2, method) for method in METHODS]


def test_exact_methods_agree_and_are_measured(found: list[dict[str, Any]]) -> None:
    exact = [row for row in found if row["exact"] and row["status"] == "ok"]
    names = {row["method"] for row in exact}
    assert {"plain autograd", "higher", "TorchOpt functional"} <= names
    assert {"bilevel Unrolled adjoint", "bilevel Unrolled graph", "bilevel Unrolled √T checkpoints"} <= names
    for row in exact:
        assert row["error"] < 1e-9, row["method"]
        assert row["seconds"] > 0
        assert row["tensor_mb"] > 0
        assert row["rounds"] == 2
    peers = [row for row in exact if METHODS[row["method"]].peer]
    assert min(row["time_ratio"] for row in peers) == 1
    assert min(row["tensor_ratio"] for row in peers) == 1


def test_inexact_methods_say_how_far_off_they_are(found: list[dict[str, Any]]) -> None:
    for name in ("bilevel GaussNewton", "bilevel Implicit(CG)"):
        (row,) = (row for row in found if row["method"] == name)
        assert row["status"] == "ok", row["reason"]
        assert row["error"] > 1e-6
        assert -1 <= row["cosine"] <= 1


def test_what_cannot_run_is_a_row_with_a_reason(found: list[dict[str, Any]]) -> None:
    for row in found:
        package = PACKAGES.get(METHODS[row["method"]].library)
        if package and importlib.util.find_spec(package) is None:
            assert row["status"] == "skipped"
            assert "not installed" in row["reason"]
    (forward,) = (row for row in found if row["method"] == "bilevel ForwardMode")
    assert forward["status"] == "skipped"
    assert "193" in forward["reason"]


def test_files_and_resume(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "results.md").read_text()
    assert "## digits-mlp, T = 2" in page
    assert "| higher | yes |" in page
    before = json.loads((out / "results.json").read_text())["rows"]
    measure = driver.do

    def only_what_was_skipped(job: dict[str, Any], *, alone: bool) -> Any:
        again = {row["status"] for row in before if row["method"] == job.get("method")}
        assert again == {"skipped"}, job
        return measure(job, alone=alone)

    monkeypatch.setattr(driver, "do", only_what_was_skipped)
    assert main(["--quick", "--steps", "2", "--out", str(out), "--resume"]) == 0
    assert json.loads((out / "results.json").read_text())["rows"] == before


def test_memory_first_and_time_later(tmp_path: Path) -> None:
    def run(*extra: str) -> list[dict[str, Any]]:
        common = ["--quick", "--steps", "1", "--methods", "higher", "bilevel Unrolled adjoint"]
        assert main([*common, "--out", str(tmp_path), *extra]) == 0
        rows: list[dict[str, Any]] = json.loads((tmp_path / "results.json").read_text())["rows"]
        return rows

    memory = run("--memory-only")
    both = run("--resume")
    for first, second in zip(memory, both, strict=True):
        assert (first["rounds"], second["rounds"]) == (0, 2)
        assert first["load"] is None
        assert second["load"] >= 0
        assert first["tensor_mb"] == second["tensor_mb"] > 0


def test_load_makes_a_warning() -> None:
    assert load_warning([None, 0.1]) == ""
    assert "1.5" in load_warning([0.1, 1.5])


def test_a_failure_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(task: Any, steps: int) -> Any:
        def run() -> Any:
            raise RuntimeError("no\nsecond derivative")

        return run

    monkeypatch.setitem(METHODS, "higher", Method("higher", "higher", broken, exact=True))
    chosen = ["--methods", "plain autograd", "higher", "bilevel Unrolled adjoint"]
    assert main(["--quick", "--steps", "1", "--repeats", "1", "--out", str(tmp_path), *chosen]) == 0
    content = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["status"] for row in content] == ["ok", "failed", "ok"]
    assert content[1]["reason"] == "RuntimeError: no"


def test_ratios_and_errors() -> None:
    def cell(method: str, steps: int, seconds: float, size: int, vector: list[float]) -> Cell:
        return Cell("p", steps, method, tensor_bytes=size, seconds=[seconds] * 3, vector=vector)

    table = rows.rows(
        [
            cell("plain autograd", 1, 1.0, 90, [3.0, 4.0]),
            cell("higher", 1, 2.0, 100, [3.0, 4.0]),
            cell("bilevel Unrolled adjoint", 1, 3.0, 50, [3.0, 4.0]),
            cell("bilevel Unrolled adjoint", 5, 9.0, 60, [0.0, 4.0]),
        ]
    )
    assert [row.time_ratio for row in table] == [0.5, 1, 1.5, None]
    assert table[2].tensor_ratio == 0.5
    assert table[3].growth == 1.2
    assert table[2].error == 0
    other = rows.rows([cell("higher", 1, 1, 1, [3.0, 4.0]), cell("bilevel GaussNewton", 1, 1, 1, [6.0, 8.0])])
    assert other[1].error == 1
    assert other[1].cosine == pytest.approx(1)
