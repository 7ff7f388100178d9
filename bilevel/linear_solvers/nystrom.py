"""Nyström approximation of the Hessian (Hataya and Yamada 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._numbers import check_numbers
from ..errors import OptionError
from ._base import LinearSolver, LinearSolveReport, MatVec, Status, warn_if_misleading


@dataclass(frozen=True)
class Nystrom(LinearSolver):
    """(Â + damping·I)⁻¹ b, Â = (AΩ)(ΩᵀAΩ)⁻¹(AΩ)ᵀ of low rank from `rank` products with random directions Ω.

    No iteration and no step size (Hataya and Yamada 2023, "Nyström method for accurate and scalable implicit
    differentiation"); Ω is an orthonormal Gaussian sketch instead of random columns, as in Frangella, Tropp
    and Udell 2023, whose error follows the eigenvalues beyond the rank. Directions outside of Â count as
    having no curvature: there the answer is b/damping, too long, which is the bias of a rank below n. At
    rank n it is the exact damped solution. Â keeps positive curvature only; negative curvature that the
    sketch meets is reported, with a warning.

    Memory: 2·rank vectors. One more product checks the residual.

    Args:
        rank: how many products to sketch with; no more than n are made.
        damping: ρ > 0, added to the diagonal.
        seed: of the sketch; the same seed gives the same answer, torch's global generators are not used.
        tolerance: the relative residual under which the report says "converged".

    Raises:
        OptionError: an argument is out of range.
    """

    rank: int = 10
    damping: float = 0.01
    seed: int = 0
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        check_numbers(
            "Nystrom", whole={"rank": self.rank}, real={"damping": self.damping, "tolerance": self.tolerance}
        )
        check_numbers("Nystrom", whole={"seed": self.seed}, least=0)
        if self.rank < 1 or not self.damping > 0 or self.tolerance < 0:
            raise OptionError(
                "out of range",
                where="Nystrom",
                found=repr(self),
                expected="rank ≥ 1, damping > 0, tolerance ≥ 0",
            )

    def solve(self, matvec: MatVec, b: Tensor) -> tuple[Tensor, LinearSolveReport]:
        """Solve (A + damping·I) x = b; see `LinearSolver.solve`."""
        size = float(b.norm())
        x = torch.zeros_like(b)
        status: Status = "not finite"
        negative, residual, made = False, 1.0, 0
        if size == 0:
            status, residual = "converged", 0.0
        elif size < float("inf"):
            sketch = self._directions(b)
            products = torch.stack([matvec(column) for column in sketch.T.contiguous()], 1)
            made = sketch.shape[1]
            if bool(torch.isfinite(products).all()):
                values, vectors, negative = _low_rank(sketch, products)
                along = vectors.T @ b
                x = vectors @ (along / (values + self.damping))
                if len(along) < len(b):  # else only rounding is left, which a small damping would blow up
                    x = x + (b - vectors @ along) / self.damping
                left = b - matvec(x) - self.damping * x
                made += 1
                residual = float(left.norm()) / size
                status = "converged" if residual <= self.tolerance else "iteration limit"
                if negative:
                    status = "negative curvature"
                if not residual < float("inf"):
                    x, status, residual = torch.zeros_like(b), "not finite", 1.0
        report = LinearSolveReport(
            solver="Nystrom",
            status=status,
            iterations=made,
            residual=residual,
            negative_curvature=negative,
            damping=self.damping,
        )
        return x, warn_if_misleading(report)

    def _directions(self, b: Tensor) -> Tensor:
        """Ω, [n, rank] with orthonormal columns, drawn on the CPU so that it is the same on each device."""
        generator = torch.Generator("cpu").manual_seed(self.seed)
        size = b.numel(), min(self.rank, b.numel())
        drawn = torch.randn(size, generator=generator, dtype=torch.float64, device="cpu")
        return torch.linalg.qr(drawn)[0].to(b)


def _low_rank(sketch: Tensor, products: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Eigenvalues [r] and eigenvectors [n, r] of Â's positive part, and whether a negative one was met."""
    core = sketch.T @ products
    core_values, core_vectors = torch.linalg.eigh((core + core.T) / 2)
    noise = 100 * torch.finfo(core.dtype).eps * float(products.norm())
    kept = core_values > noise
    root = (products @ core_vectors[:, kept]) / core_values[kept].sqrt()
    vectors, singular, _ = torch.linalg.svd(root, full_matrices=False)
    return singular.square(), vectors, float(core_values[0]) < -noise
