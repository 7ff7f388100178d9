"""What the solver says about a step."""

from __future__ import annotations

from dataclasses import dataclass, field

from .linear_solvers import LinearSolveReport


@dataclass(frozen=True)
class Seconds:
    """Wall-clock seconds of the parts of a step."""

    hypergradient: float = 0.0
    outer: float = 0.0
    inner: float = 0.0

    @property
    def total(self) -> float:
        """All parts together."""
        return self.hypergradient + self.outer + self.inner


@dataclass(frozen=True)
class StepInfo:
    """What happened in one solver step; None where the step had no such part.

    Attributes:
        inner_loss: G on the live modules before the (last) inner update.
        inner_gradient_norm: the norm of its gradient.
        outer_loss: F where it was differentiated: after the unroll, or at the live parameters.
        unroll_losses: G along the unroll, or at the live parameters for methods that do not unroll.
        hypergradient_norm: the Euclidean norm over all outer parameters.
        linearization_gradient_norm: ‖G_w‖ where an implicit method linearised.
        linear_solves: reports of the linear solver.
        notes: what the hypergradient method did otherwise than asked, such as a fall-back.
        skipped: why an update was skipped because something was not finite; empty if none was.
        skipped_total: how many updates this solver has skipped so far.
        seconds: where the time went.
    """

    inner_loss: float | None = None
    inner_gradient_norm: float | None = None
    outer_loss: float | None = None
    unroll_losses: tuple[float, ...] = ()
    hypergradient_norm: float | None = None
    linearization_gradient_norm: float | None = None
    linear_solves: tuple[LinearSolveReport, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    skipped_total: int = 0
    seconds: Seconds = field(default_factory=Seconds)
