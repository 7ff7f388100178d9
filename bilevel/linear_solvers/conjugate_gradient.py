"""Conjugate gradient (Hestenes and Stiefel 1952)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._numbers import check_numbers
from ..errors import OptionError
from ._base import LinearSolver, LinearSolveReport, MatVec, Status, warn_if_misleading


@dataclass(frozen=True)
class ConjugateGradient(LinearSolver):
    """Conjugate gradient for a positive definite Hessian; exact after n products in exact arithmetic.

    A direction p of negative curvature, pᵀ(A + damping·I)p ≤ 0, shows that the Hessian is not positive
    definite. The search stops there, answers the last solution before it (zero if it is the first direction,
    which leaves only the direct term of the hypergradient), reports it and warns: going on can turn the sign
    of the hypergradient.

    Args:
        max_iterations: the budget, in products with the Hessian.
        tolerance: stop when ‖residual‖ ≤ tolerance·‖b‖ (the recursively updated residual).
        damping: added to the diagonal; biases the answer, tames small and negative curvature.

    Raises:
        OptionError: an argument is out of range.
    """

    max_iterations: int = 20
    tolerance: float = 1e-6
    damping: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(
            "ConjugateGradient",
            whole={"max_iterations": self.max_iterations},
            real={"tolerance": self.tolerance, "damping": self.damping},
        )
        if self.max_iterations < 1 or self.tolerance < 0 or self.damping < 0:
            raise OptionError(
                "out of range",
                where="ConjugateGradient",
                found=repr(self),
                expected="max_iterations ≥ 1, tolerance ≥ 0, damping ≥ 0",
            )

    def solve(self, matvec: MatVec, b: Tensor) -> tuple[Tensor, LinearSolveReport]:
        """Solve (A + damping·I) x = b; see `LinearSolver.solve`."""
        size = float(b.norm())
        rounding = torch.finfo(b.dtype).eps
        x = torch.zeros_like(b)
        residual, direction = b, b
        square = float(b.dot(b))
        status: Status = "iteration limit"
        made = 0
        while True:
            if not size < float("inf"):
                status = "not finite"
            elif square**0.5 <= self.tolerance * size:
                status = "converged"
            if status != "iteration limit" or made == self.max_iterations:
                break
            product = matvec(direction)
            if self.damping:
                product = product.add(direction, alpha=self.damping)
            made += 1
            curvature = float(direction.dot(product))
            scale = float(direction.norm() * product.norm())
            if not scale < float("inf"):
                status = "not finite"
                break
            if curvature <= rounding * scale:
                status = "negative curvature"
                break
            length = square / curvature
            x = x.add(direction, alpha=length)
            residual = residual.sub(product, alpha=length)
            new_square = float(residual.dot(residual))
            direction = residual.add(direction, alpha=new_square / square)
            square = new_square
        report = LinearSolveReport(
            solver="ConjugateGradient",
            status=status,
            iterations=made,
            residual=square**0.5 / size if size else 0.0,
            negative_curvature=status == "negative curvature",
            damping=self.damping,
        )
        return x, warn_if_misleading(report)
