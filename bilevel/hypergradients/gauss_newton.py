"""Rank-one Gauss-Newton hypergradient, the method of arXiv 2605.14346."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .._autograd import subtract
from .._numbers import check_numbers
from ..errors import OptionError
from ._base import HypergradientMethod, Point
from ._mixed import inner_gradients
from ._outer import outer_gradients
from ._result import Hypergradient


@dataclass(frozen=True)
class GaussNewton(HypergradientMethod):
    """F_λ − (⟨F_w, g⟩ / (‖g‖² + ε)) G_λ with g = G_w, all at the live parameters.

    The implicit hypergradient with the Hessian G_ww replaced by g gᵀ and the mixed derivative G_λw by G_λ gᵀ:
    two backward passes, no second derivatives (Liu et al. 2021; arXiv 2605.14346). Its sign is that of the
    exact formula: where a step down the inner loss also lowers the outer loss (⟨F_w, g⟩ > 0), the outer
    update raises the inner loss at w, that is, the weight of what is not fitted yet. It sees G_λ only in
    sum over the batch, so compare it with an exact method on your own problem.

    Args:
        eps: ε > 0, keeps the ratio finite near a stationary point of the inner loss.

    Raises:
        OptionError: `eps` is not positive.
    """

    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_numbers("GaussNewton", real={"eps": self.eps})
        if not self.eps > 0:
            raise OptionError("not positive", where="GaussNewton(eps)", found=self.eps, expected="> 0")

    def __call__(self, point: Point) -> Hypergradient:
        """The hypergradient at `point`."""
        final = outer_gradients(point, tuple(point.inner.values()), point.buffers)
        here = inner_gradients(point, tuple(point.inner.values()))
        zero = here.loss.new_zeros(())
        square = sum((g.square().sum().to(zero.device) for g in here.inner if g is not None), zero)
        product = sum(
            (
                (f * g).sum().to(zero.device)
                for f, g in zip(final.inner, here.inner, strict=True)
                if f is not None and g is not None
            ),
            zero,
        )
        ratio = product / (square + self.eps)
        indirect = tuple(None if g is None else ratio.to(g) * g for g in here.outer)
        return point.answer(
            subtract(final.outer, indirect),
            outer_loss=final.loss,
            inner_losses=torch.stack([here.loss]),
            inner_gradient_norm=square.sqrt(),
        )
