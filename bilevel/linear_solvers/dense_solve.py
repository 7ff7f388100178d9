"""The whole Hessian, written out and solved: the reference for small problems."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._numbers import check_numbers
from ..errors import OptionError
from ._base import LinearSolver, LinearSolveReport, MatVec, Status, warn_if_misleading


@dataclass(frozen=True)
class DenseSolve(LinearSolver):
    """(A + damping·I)⁻¹ b by the eigenvalues of A, which is built from n products; no bias of its own.

    Exact to rounding (times the condition number) for any invertible A. Where eigenvalues are negative the
    answer is still the solution, which is that of the implicit formula at a saddle point: it is reported,
    with a warning. Directions whose eigenvalue is rounding noise are left out (the least-norm solution).

    Args:
        damping: added to the diagonal.
        max_size: refuse to build a matrix with more rows; n² numbers are kept and n³ operations done.
        tolerance: the relative residual above which a singular system counts as unsolved.

    Raises:
        OptionError: an argument is out of range, or, when asked to solve, there are more than `max_size`
            unknowns.
    """

    damping: float = 0.0
    max_size: int = 2000
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        check_numbers(
            "DenseSolve",
            whole={"max_size": self.max_size},
            real={"damping": self.damping, "tolerance": self.tolerance},
        )
        if self.damping < 0 or self.max_size < 1 or not self.tolerance > 0:
            raise OptionError(
                "out of range",
                where="DenseSolve",
                found=repr(self),
                expected="damping ≥ 0, max_size ≥ 1, tolerance > 0",
            )

    def solve(self, matvec: MatVec, b: Tensor) -> tuple[Tensor, LinearSolveReport]:
        """Solve (A + damping·I) x = b; see `LinearSolver.solve`.

        Raises:
            OptionError: b has more than `max_size` entries.
        """
        n = b.numel()
        if n > self.max_size:
            raise OptionError(
                "the problem is too big for a dense Hessian",
                where="DenseSolve(max_size)",
                found=f"{n} inner parameters",
                expected=f"at most {self.max_size}",
                fix="use ConjugateGradient() or Nystrom(), or raise max_size if n² numbers fit into memory",
            )
        size = float(b.norm())
        x, matrix = torch.zeros_like(b), None
        status: Status = "not finite"
        negative, residual, made = False, 1.0, 0
        if size < float("inf"):
            matrix = self._matrix(matvec, b)
            made = n
        if matrix is not None and bool(torch.isfinite(matrix).all()):
            values, vectors = torch.linalg.eigh(matrix)
            noise = n * torch.finfo(b.dtype).eps * float(values.abs().max())
            negative = float(values[0]) < -noise
            used = values.abs() > noise
            inverse = torch.where(used, 1 / torch.where(used, values, torch.ones_like(values)), 0)
            x = vectors @ (inverse * (vectors.T @ b))
            residual = float((b - matrix @ x).norm()) / size if size else 0.0
            status = (
                "negative curvature"
                if negative
                else "converged"
                if residual <= self.tolerance
                else "singular"
            )
        report = LinearSolveReport(
            solver="DenseSolve",
            status=status,
            iterations=made,
            residual=residual,
            negative_curvature=negative,
            damping=self.damping,
        )
        return x, warn_if_misleading(report)

    def _matrix(self, matvec: MatVec, b: Tensor) -> Tensor:
        """A + damping·I, [n, n], symmetric."""
        matrix = b.new_empty(b.numel(), b.numel())
        unit = torch.zeros_like(b)
        for index in range(b.numel()):
            unit[index] = 1
            matrix[index] = matvec(unit.clone())
            unit[index] = 0
        matrix = (matrix + matrix.T) / 2
        matrix.diagonal().add_(self.damping)
        return matrix
