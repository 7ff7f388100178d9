"""Fixed-point iteration through the map of gradient descent (Grazzi et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .._numbers import check_numbers
from ..errors import OptionError
from ._base import LinearSolver, LinearSolveReport, MatVec, Status, warn_if_misleading

_GROWTH = 1e4  # a heavy ball may swing before it settles, but not that far


@dataclass(frozen=True)
class FixedPoint(LinearSolver):
    """xₖ₊₁ = xₖ − α(A xₖ − b) + β(xₖ − xₖ₋₁) from x₀ = 0: the adjoint of the inner optimiser's fixed point.

    Where w ← Φ(w, λ) stands still the adjoint solves v = (∂Φ/∂w)ᵀ v + F_w (Grazzi et al. 2020, section 3.2).
    For gradient descent with step α that is v = A⁻¹b/α, and iterating it is iterating x = αv as here with
    β = 0 (Richardson); with heavy-ball momentum β (Polyak 1964) as here with that β. So the step size and
    momentum of the inner SGD are a sound choice. With β = 0 it walks as `Neumann` does; at the best β,
    ((√κ − 1)/(√κ + 1))² with κ the condition number, the error shrinks by about √β a product instead of by
    (κ − 1)/(κ + 1). Stopped early, it is biased towards the one-step hypergradient.

    The answer is the iterate with the least residual.

    Args:
        step_size: α; converges for 0 < α < 2(1 + β) / (largest eigenvalue + damping).
        momentum: β, 0 ≤ β < 1.
        max_iterations: the budget, in products with the Hessian.
        tolerance: stop when ‖residual‖ ≤ tolerance·‖b‖.
        damping: added to the diagonal; biases the answer, tames small and negative curvature.

    Raises:
        OptionError: an argument is out of range.
    """

    step_size: float
    momentum: float = 0.0
    max_iterations: int = 20
    tolerance: float = 1e-6
    damping: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(
            "FixedPoint",
            whole={"max_iterations": self.max_iterations},
            real={
                "step_size": self.step_size,
                "momentum": self.momentum,
                "tolerance": self.tolerance,
                "damping": self.damping,
            },
        )
        if (
            self.max_iterations < 1
            or self.tolerance < 0
            or self.damping < 0
            or not self.step_size > 0
            or not 0 <= self.momentum < 1
        ):
            raise OptionError(
                "out of range",
                where="FixedPoint",
                found=repr(self),
                expected="step_size > 0, 0 ≤ momentum < 1, max_iterations ≥ 1, tolerance ≥ 0, damping ≥ 0",
            )

    def solve(self, matvec: MatVec, b: Tensor) -> tuple[Tensor, LinearSolveReport]:
        """Solve (A + damping·I) x = b; see `LinearSolver.solve`."""
        size = float(b.norm())
        x = before = best = b.new_zeros(b.shape)
        residual, left = b, size
        least = size
        status: Status = "iteration limit"
        negative = False
        made = 0
        while True:
            if not left < float("inf"):
                status = "not finite"
            elif left <= self.tolerance * size:
                status = "converged"
            elif left > _GROWTH * size:
                status = "negative curvature" if negative else "diverged"
            if status != "iteration limit" or made == self.max_iterations:
                break
            step = (x - before).mul_(self.momentum).add_(residual, alpha=self.step_size)
            before, x = x, x + step
            product = matvec(step)
            if self.damping:
                product = product.add(step, alpha=self.damping)
            made += 1
            negative = negative or float(step.dot(product)) < 0
            residual = residual - product
            left = float(residual.norm())
            if left < least:
                least, best = left, x
        if status == "iteration limit" and negative:
            status = "negative curvature"
        report = LinearSolveReport(
            solver="FixedPoint",
            status=status,
            iterations=made,
            residual=least / size if size and size < float("inf") else float(size != 0),
            negative_curvature=negative,
            damping=self.damping,
        )
        return best, warn_if_misleading(report)
