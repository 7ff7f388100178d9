"""The solver's state as plain data, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._level import Level
from ._plain import load_unsaved_buffers, plain, plain_module, unsaved_buffers
from ._restart import RestartPoint
from ._rng import RngState
from .callbacks import Callback
from .errors import BilevelError, StateError
from .problem import Problem

_VERSION = 1
_LEVELS = ("inner", "outer")
_OPTIONAL = {"inner_scheduler", "outer_scheduler", "restart"}  # kept by some solvers only
_MISFITS = (LookupError, TypeError, AttributeError, RuntimeError, ValueError, BilevelError)


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
        "inner": plain_module(problem.inner),
        "outer": plain_module(problem.outer),
    }
    unsaved = {level: unsaved_buffers(getattr(problem, level)) for level in _LEVELS}
    if any(unsaved.values()):
        state["buffers"] = unsaved
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
    if not isinstance(state, Mapping):
        raise StateError(
            "not a state", where="state_dict", found=type(state).__name__, expected="what state_dict() gives"
        )
    if state.get("version") != _VERSION:
        raise StateError("unknown version", where="state_dict", found=state.get("version"), expected=_VERSION)
    before = solver_state(problem, levels, counts, restart, callbacks)
    # Earlier versions saved no buffers beside those of the modules' own states.
    missing = set(before) - set(state) - {"callbacks", "buffers"} - (set() if restore_rng else {"rng"})
    foreign = (set(state) & _OPTIONAL) - set(before)
    if missing or foreign:
        raise _misfit(
            "; ".join(
                f"{what} {', '.join(sorted(names))}"
                for what, names in (("without", missing), ("with", foreign))
                if names
            )
        )

    def apply(state: Mapping[str, Any], *, restore_rng: bool) -> None:
        problem.inner.load_state_dict(state["inner"])
        problem.outer.load_state_dict(state["outer"])
        for level, values in state.get("buffers", {}).items():
            load_unsaved_buffers(getattr(problem, level), values)
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
            rng = state["rng"]
            RngState(rng["cpu"].cpu(), {k: v.cpu() for k, v in rng["devices"].items()}).restore()

    try:
        apply(state, restore_rng=restore_rng)
    except _MISFITS as error:
        apply(before, restore_rng=True)
        if isinstance(error, StateError):
            raise
        raise _misfit(error) from error


def _misfit(found: object) -> StateError:
    return StateError(
        "the state does not fit this solver",
        where="load_state_dict",
        found=found,
        fix="build the solver with the same modules, optimisers and options before loading",
    )


def _stateful(callbacks: Sequence[Callback]) -> list[tuple[int, Any]]:
    return [(i, one) for i, one in enumerate(callbacks) if hasattr(one, "state_dict")]
