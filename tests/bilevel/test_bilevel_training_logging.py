"""Sinks and the callback that feeds them."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from pathlib import Path
from typing import Any

import bilevel_zoo as zoo
import pytest
import rich.console
import torch

from bilevel import ConjugateGradient, Implicit, Solver, Unrolled
from bilevel.errors import MissingDependencyError, OptionError, StateError
from bilevel.logging import Console, JsonLines, LogTo, TensorBoard, scalars


def build(*callbacks: Any) -> tuple[zoo.Case, Solver]:
    case = zoo.reweighted_mlp()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    return case, case.solver(optimizer, Unrolled(1), callbacks=callbacks)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines_hold_the_numbers_of_every_nth_step(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.jsonl"
    log = LogTo(JsonLines(path), every=2)
    case, solver = build(log)
    infos = [solver.step(case.train[0], case.val) for _ in range(5)]
    log.close()
    rows = read(path)
    assert [row.pop("step") for row in rows] == [2, 4]
    assert rows == [{**scalars(infos[i]), "inner/lr": 0.1, "outer/lr": 0.1} for i in (1, 3)]
    assert rows[0]["outer/loss"] == infos[1].outer_loss
    assert not [name for name in rows[0] if "linear" in name]


def test_a_budgeted_linear_solve_leaves_a_trace(tmp_path: Path) -> None:
    case = zoo.reweighted_mlp()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    path = tmp_path / "run.jsonl"
    method = Implicit(ConjugateGradient(2, tolerance=1e-12, damping=2.0))
    solver = case.solver(optimizer, method, callbacks=[LogTo(JsonLines(path))])
    info = solver.step(case.train[0], case.val)
    (report,) = info.linear_solves
    (row,) = read(path)
    assert row["outer/linear_solve_residual"] == report.residual > 1e-6
    assert row["outer/linear_solve_iterations"] == report.iterations > 0
    assert row["outer/linear_solve_converged"] == 0
    exact = case.solver(optimizer, Implicit(ConjugateGradient(80, damping=2.0)))
    assert scalars(exact.step(case.train[0], case.val))["outer/linear_solve_converged"] == 1


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "run.jsonl")
    sink.write(1, {"loss": float("nan"), "norm": float("inf"), "fine": 0.5})
    assert read(sink.path) == [{"step": 1, "loss": None, "norm": None, "fine": 0.5}]


def test_a_resumed_run_leaves_the_log_of_an_uninterrupted_one(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    case, solver = build(lambda solver, info: None, LogTo(JsonLines(path)))
    for _ in range(2):
        solver.step(case.train[0], case.val)
    state = solver.state_dict()
    for _ in range(2):
        solver.step(case.train[0], case.val)  # these steps are lost in a crash
    lost = read(path)

    case, solver = build(lambda solver, info: None, LogTo(JsonLines(path)))
    solver.load_state_dict(state)
    assert len(read(path)) == 2
    for _ in range(2):
        solver.step(case.train[0], case.val)
    again = read(path)
    for row in (*lost, *again):
        row.pop("seconds")
    assert again == lost
    assert [row["step"] for row in again] == [1, 2, 3, 4]

    path.write_text("")
    with pytest.raises(StateError, match=r"shorter(.|\n)*0 bytes"):
        solver.load_state_dict(state)
    _, without = build()
    without.load_state_dict(state)  # a log is not needed to go on


def test_console_prints_a_line_a_step() -> None:
    stream = io.StringIO()
    sink = Console(("outer/loss", "absent"), rich.console.Console(file=stream, width=40))
    case, solver = build(LogTo(Console(console=rich.console.Console(file=stream, width=200)), sink))
    info = solver.step(case.train[0], case.val)
    whole, chosen = stream.getvalue().splitlines()
    assert whole.startswith("step 1  inner/loss ")
    assert chosen == f"step 1  outer/loss {info.outer_loss:.5g}"


class FakeWriter:
    def __init__(self, log_dir: str, purge_step: int) -> None:
        self.calls: list[Any] = [(log_dir, purge_step)]
        made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.calls.append((name, value, step))

    def close(self) -> None:
        self.calls.append("closed")


made: list[FakeWriter] = []


def test_tensorboard_gets_scalars_and_forgets_steps_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = FakeWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    made.clear()
    sink = TensorBoard("runs/a")
    sink.write(7, {"loss": 0.5})
    sink.write(8, {"loss": 0.25})
    sink.close()
    (writer,) = made
    assert writer.calls == [("runs/a", 7), ("loss", 0.5, 7), ("loss", 0.25, 8), "closed"]


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_tensorboard_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match="pip install tensorboard"):
        TensorBoard(tmp_path)


def test_bad_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no sink"):
        LogTo()
    with pytest.raises(OptionError, match="every"):
        LogTo(JsonLines(tmp_path / "run.jsonl"), every=0)
