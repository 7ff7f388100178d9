"""The solver's state as plain data, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ._level import Level
from ._live import plain
from ._restart import RestartPoint
from ._rng import RngState
from .callbacks import Callback
from .errors import StateError
from .problem import Problem

_VERSION = 1


def solver_state(
    problem: Problem,
    levels: Sequence[Level],
    counts: Mapping[str, int],
    restart: RestartPoint | None,
    callbacks: Sequence[Callback],
) -> dict[str, Any]:
    """See `Solver.state_dict`."""
    rng = RngState.capture(problem.devices())
    state: dict[str, Any] = {
        "version": _VERSION,
        "inner": _copied(problem.inner),
        "outer": _copied(problem.outer),
    }
    for level in levels:
        state.update(level.state_dict())
    state["counts"] = dict(counts)
    state["rng"] = {"cpu": rng.cpu, "devices": dict(rng.devices)}
    if restart is not None:
        state["restart"] = restart.state_dict()
    kept = {str(i): plain(one.state_dict()) for i, one in _stateful(callbacks)}
    if kept:
        state["callbacks"] = kept
    return state


def load_solver_state(
    state: Mapping[str, Any],
    problem: Problem,
    levels: Sequence[Level],
    counts: dict[str, int],
    restart: RestartPoint | None,
    callbacks: Sequence[Callback],
    *,
    restore_rng: bool,
) -> None:
    """See `Solver.load_state_dict`."""
    if state.get("version") != _VERSION:
        raise StateError("unknown version", where="state_dict", found=state.get("version"), expected=_VERSION)
    try:
        problem.inner.load_state_dict(state["inner"])
        problem.outer.load_state_dict(state["outer"])
        for level in levels:
            level.load_state_dict(state)
        counts.update(state["counts"])
        if restart is not None:
            restart.load_state_dict(state["restart"])
        saved = state.get("callbacks", {})
        for index, callback in _stateful(callbacks):
            if str(index) in saved:  # one that was added since starts afresh
                callback.load_state_dict(saved[str(index)])
        if restore_rng:
            RngState(
                state["rng"]["cpu"].cpu(), {k: v.cpu() for k, v in state["rng"]["devices"].items()}
            ).restore()
    except (KeyError, RuntimeError, ValueError) as error:
        raise StateError(
            "the state does not fit this solver",
            where="load_state_dict",
            found=error,
            fix="build the solver with the same modules, optimisers and options before loading",
        ) from error


def _stateful(callbacks: Sequence[Callback]) -> list[tuple[int, Any]]:
    return [(i, one) for i, one in enumerate(callbacks) if hasattr(one, "state_dict")]


def _copied(module: nn.Module) -> dict[str, Any]:
    return {name: plain(value) for name, value in module.state_dict().items()}
