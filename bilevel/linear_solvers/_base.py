"""What a linear solver is asked, and what it reports."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from ..errors import LinearSolveWarning

MatVec: TypeAlias = Callable[[Tensor], Tensor]
Status: TypeAlias = Literal[
    "converged", "iteration limit", "negative curvature", "singular", "diverged", "not finite"
]

_ADVICE: dict[str, str] = {
    "converged": "the tolerance was reached",
    "iteration limit": "stopped by the budget; raise it (max_iterations, rank) or damping for a smaller "
    "residual",
    "negative curvature": "the Hessian is not positive definite (the inner problem is not at a minimum): "
    "train the inner problem further or raise damping",
    "singular": "the Hessian is singular and the right-hand side does not lie in its range: raise damping",
    "diverged": "the residual grew: lower step_size below 2 / (largest eigenvalue + damping), "
    "or raise damping if the Hessian may have negative curvature",
    "not finite": "a Hessian-vector product is NaN or infinite: look at the inner loss",
}
_MISLEADING = ("negative curvature", "singular", "diverged", "not finite")


@dataclass(frozen=True)
class LinearSolveReport:
    """How the solve of (A + damping·I) x = b went.

    Attributes:
        solver: the solver's name.
        status: why it stopped.
        iterations: products with A that were made.
        residual: ‖b − (A + damping·I) x‖ / ‖b‖ of the x that was answered; 0 if b = 0.
        negative_curvature: whether a direction p with pᵀ(A + damping·I)p ≤ 0 was met.
        damping: the damping that was added.
    """

    solver: str
    status: Status
    iterations: int
    residual: float
    negative_curvature: bool
    damping: float

    @property
    def converged(self) -> bool:
        """Whether the tolerance was reached."""
        return self.status == "converged"

    @property
    def advice(self) -> str:
        """What the status means and what to do about it."""
        return _ADVICE[self.status]


class LinearSolver(ABC):
    """A way to solve (A + damping·I) x = b for a symmetric A known by its products only."""

    @abstractmethod
    def solve(self, matvec: MatVec, b: Tensor) -> tuple[Tensor, LinearSolveReport]:
        """Solve.

        Args:
            matvec: v ↦ A v, without damping, for v of b's shape and type.
            b: the right-hand side, shape [n].

        Returns:
            x, shape [n], and how it went. A `LinearSolveWarning` is issued where x may mislead.
        """


def warn_if_misleading(report: LinearSolveReport) -> LinearSolveReport:
    """Issue a `LinearSolveWarning` if the solution may mislead; the end of the budget is no reason."""
    if report.status in _MISLEADING:
        warnings.warn(
            f"{report.solver}: {report.status} after {report.iterations} products "
            f"(relative residual {report.residual:.1e}); {report.advice}",
            LinearSolveWarning,
            stacklevel=3,
        )
    return report
