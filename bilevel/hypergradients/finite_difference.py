"""The one-step hypergradient with a finite-difference mixed product, known from DARTS."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .._autograd import subtract
from .._numbers import check_numbers
from .._rng import RngState
from ..errors import OptionError
from ._base import HypergradientMethod, Point
from ._mixed import finite_difference_mixed, inner_gradients, norm, scaled
from ._outer import outer_gradients
from ._result import Hypergradient


@dataclass(frozen=True)
class FiniteDifference(HypergradientMethod):
    """F_λ − ξ·(G_λ(w + εv) − G_λ(w − εv))/2ε with v = F_w at w' = w − ξ·G_w (Liu, Simonyan and Yang 2019).

    First derivatives only: three gradients of the inner loss, one of the outer. It estimates the
    hypergradient of one step of plain SGD, `Unrolled(1)` with learning rate ξ, with an error of O(eps²) and
    one of rounding over eps; the bias of the one step, which forgets all earlier steps, it shares. Several
    batches are one step on their mean.

    Args:
        step_size: ξ > 0, the inner learning rate.
        eps: ε‖v‖ > 0, how far w is shifted; the paper takes 0.01.

    Raises:
        OptionError: an argument is out of range.
    """

    step_size: float
    eps: float = 0.01

    def __post_init__(self) -> None:
        check_numbers("FiniteDifference", real={"step_size": self.step_size, "eps": self.eps})
        if not self.step_size > 0 or not self.eps > 0:
            raise OptionError(
                "out of range",
                where="FiniteDifference",
                found=repr(self),
                expected="step_size > 0, eps > 0",
            )

    def __call__(self, point: Point) -> Hypergradient:
        """The hypergradient at `point`."""
        rng = RngState.capture(point.devices)
        here = inner_gradients(point, tuple(point.inner.values()))
        moved = tuple(
            one if grad is None else one - self.step_size * grad
            for one, grad in zip(point.inner.values(), here.inner, strict=True)
        )
        final = outer_gradients(point, moved, here.buffers)
        # A parameter that the inner loss does not use would only shorten the shift of the others.
        along = tuple(
            None if grad is None else one for one, grad in zip(final.inner, here.inner, strict=True)
        )
        mixed = finite_difference_mixed(point, along, self.eps, rng)
        return point.answer(
            subtract(final.outer, scaled(mixed, self.step_size)),
            outer_loss=final.loss,
            inner_losses=torch.stack([here.loss]),
            inner_gradient_norm=norm(here.inner),
        )
