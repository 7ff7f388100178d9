"""From steps to numbers, and from numbers to sinks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch.distributed as dist

from .._info import StepInfo
from .._numbers import check_numbers
from ..errors import OptionError

if TYPE_CHECKING:
    from ..solver import Solver


class Sink(Protocol):
    """Takes the numbers of one step; the whole protocol of a logger.

    One that also has `state_dict()` and `load_state_dict(state)` is saved with the solver.
    """

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Keep or show `values`, name → number, of step `step` (counted from 1)."""

    def close(self) -> None:
        """Write out what is pending; nothing is written afterwards."""


def scalars(info: StepInfo) -> dict[str, float]:
    """The numbers of a step under flat names; what the step did not have is left out.

    Of the linear solves: the largest relative residual, all iterations together, and whether all converged
    (1 or 0).
    """
    solves = info.linear_solves
    named = {
        "inner/loss": info.inner_loss,
        "inner/gradient_norm": info.inner_gradient_norm,
        "outer/loss": info.outer_loss,
        "outer/hypergradient_norm": info.hypergradient_norm,
        "outer/linearization_gradient_norm": info.linearization_gradient_norm,
        "outer/linear_solve_residual": max((one.residual for one in solves), default=None),
        "outer/linear_solve_iterations": sum(one.iterations for one in solves) if solves else None,
        "outer/linear_solve_converged": all(one.converged for one in solves) if solves else None,
        "skipped": float(info.skipped_total),
        "seconds": info.seconds.total,
    }
    return {name: float(value) for name, value in named.items() if value is not None}


class LogTo:
    """A solver callback that writes the numbers of every n-th step to sinks; the first process does.

    Args:
        sinks: where to write.
        every: n ≥ 1.

    Raises:
        OptionError: no sink is given, or `every` is out of range.

    Example:
        >>> Solver(..., callbacks=[LogTo(Console(), JsonLines("run.jsonl"))])  # doctest: +SKIP
    """

    def __init__(self, *sinks: Sink, every: int = 1) -> None:
        if not sinks:
            raise OptionError("no sink is given", where="LogTo", expected="such as LogTo(Console())")
        check_numbers("LogTo", whole={"every": every})
        self.sinks = sinks
        self.every = every
        self.step = 0

    def __call__(self, solver: Solver, info: StepInfo, /) -> None:
        """Write the numbers of this step if its turn has come."""
        self.step += 1
        if self.step % self.every == 0 and _is_first_process():
            values = {**scalars(info), **solver.learning_rates()}
            for sink in self.sinks:
                sink.write(self.step, values)

    def close(self) -> None:
        """Close all sinks."""
        for sink in self.sinks:
            sink.close()

    def state_dict(self) -> dict[str, Any]:
        """The step count and the state of the sinks that have one."""
        states = {str(i): sink.state_dict() for i, sink in self._stateful()}
        return {"step": self.step, "sinks": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.step = state["step"]
        for index, sink in self._stateful():
            if str(index) in state["sinks"] and _is_first_process():
                sink.load_state_dict(state["sinks"][str(index)])

    def _stateful(self) -> list[tuple[int, Any]]:
        return [(i, sink) for i, sink in enumerate(self.sinks) if hasattr(sink, "state_dict")]


def _is_first_process() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
