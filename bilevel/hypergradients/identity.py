"""The implicit hypergradient with a multiple of the identity for the inverse Hessian."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .._autograd import subtract
from .._numbers import check_numbers
from ..errors import OptionError
from ._base import HypergradientMethod, Point
from ._mixed import exact_mixed, scaled
from ._outer import outer_gradients
from ._result import Hypergradient


@dataclass(frozen=True)
class Identity(HypergradientMethod):
    """F_λ − α·G_λw F_w at the live parameters: (G_ww)⁻¹ replaced by α·I (T1–T2, Luketina et al. 2016).

    One double backward, no solve. It is the first term of the Neumann series, and `Unrolled(1)` under SGD
    with learning rate α where F_w is taken before the step: so an error of O(α) against that. Against the
    full hypergradient it is biased as far as the Hessian is from I/α: directions of little curvature, along
    which the inner parameters answer most, count too little. α sets the scale: 1 is the paper's choice
    (for a Hessian near the identity), the inner learning rate answers on the one-step scale, and 1 over a
    typical curvature comes nearest to the scale of dF/dλ.

    Args:
        step_size: α > 0.

    Raises:
        OptionError: an argument is out of range.
    """

    step_size: float = 1.0

    def __post_init__(self) -> None:
        check_numbers("Identity", real={"step_size": self.step_size})
        if not self.step_size > 0:
            raise OptionError(
                "not positive", where="Identity(step_size)", found=self.step_size, expected="> 0"
            )

    def __call__(self, point: Point) -> Hypergradient:
        """The hypergradient at `point`."""
        final = outer_gradients(point, tuple(point.inner.values()), point.buffers)
        mixed = exact_mixed(point, lambda _: scaled(final.inner, self.step_size))
        return point.answer(
            subtract(final.outer, mixed.outer),
            outer_loss=final.loss,
            inner_losses=torch.stack([mixed.loss]),
            inner_gradient_norm=mixed.norm,
        )
