"""What the solver calls after each step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ._info import StepInfo

if TYPE_CHECKING:
    from .solver import Solver


class Callback(Protocol):
    """Anything callable as `callback(solver, info)`, a plain function too.

    One that also has `state_dict()` (plain data) and `load_state_dict(state)` is saved with the solver.
    """

    def __call__(self, solver: Solver, info: StepInfo, /) -> None:
        """Called at the end of each `Solver.step`."""
