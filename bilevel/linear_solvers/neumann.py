"""Truncated Neumann series (Lorraine, Vicol and Duvenaud 2020, algorithm 3)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .._numbers import check_numbers
from ..errors import OptionError
from ._base import LinearSolver, LinearSolveReport, MatVec, Status, warn_if_misleading


@dataclass(frozen=True)
class Neumann(LinearSolver):
    """A⁻¹ b ≈ α Σₖ (I − αA)ᵏ b, which equals unrolling so many gradient steps of size α at a fixed point.

    The k-th term, without its α, is the residual of the sum before it, so the report costs nothing. For a
    symmetric A its norm is convex in k: once it grows, it grows for ever. The sum then stops where the
    residual is least, and the rest of the budget goes into finding out whether negative curvature or too
    large a step is to blame, for the report and the warning.

    Args:
        step_size: α; converges for 0 < α < 2 / (largest eigenvalue + damping).
        max_iterations: the budget, in products with the Hessian.
        tolerance: stop when ‖residual‖ ≤ tolerance·‖b‖.
        damping: added to the diagonal.

    Raises:
        OptionError: an argument is out of range.
    """

    step_size: float
    max_iterations: int = 20
    tolerance: float = 1e-6
    damping: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(
            "Neumann",
            whole={"max_iterations": self.max_iterations},
            real={"step_size": self.step_size, "tolerance": self.tolerance, "damping": self.damping},
        )
        if self.max_iterations < 1 or self.tolerance < 0 or self.damping < 0 or not self.step_size > 0:
            raise OptionError(
                "out of range",
                where="Neumann",
                found=repr(self),
                expected="step_size > 0, max_iterations ≥ 1, tolerance ≥ 0, damping ≥ 0",
            )

    def solve(self, matvec: MatVec, b: Tensor) -> tuple[Tensor, LinearSolveReport]:
        """Solve (A + damping·I) x = b; see `LinearSolver.solve`."""
        size = float(b.norm())
        x = b.new_zeros(b.shape)
        term, left = b, size
        status: Status = "iteration limit"
        negative = False
        made = 0
        while True:
            if not left < float("inf"):
                status = "not finite"
            elif left <= self.tolerance * size:
                status = "converged"
            if status != "iteration limit" or made == self.max_iterations:
                break
            product = self._product(matvec, term)
            made += 1
            negative = negative or float(term.dot(product)) < 0
            new_term = term.sub(product, alpha=self.step_size)
            new_left = float(new_term.norm())
            if not new_left < float("inf"):
                status = "not finite"
                break
            if new_left > left * (1 + 1e-6):
                made, negative = self._why(matvec, new_term, made, negative)
                status = "negative curvature" if negative else "diverged"
                break
            x = x.add(term, alpha=self.step_size)
            term, left = new_term, new_left
        report = LinearSolveReport(
            solver="Neumann",
            status=status,
            iterations=made,
            residual=left / size if size else 0.0,
            negative_curvature=negative,
            damping=self.damping,
        )
        return x, warn_if_misleading(report)

    def _product(self, matvec: MatVec, vector: Tensor) -> Tensor:
        product = matvec(vector)
        return product.add(vector, alpha=self.damping) if self.damping else product

    def _why(self, matvec: MatVec, term: Tensor, made: int, negative: bool) -> tuple[int, bool]:
        """Follow the growing term, within the budget, until it shows which end of the spectrum feeds it."""
        while made < self.max_iterations and not negative:
            term = term / term.norm()
            product = self._product(matvec, term)
            made += 1
            curvature = float(term.dot(product))
            negative = curvature < 0
            if not curvature < 2 / self.step_size:
                break
            term = term.sub(product, alpha=self.step_size)
        return made, negative
