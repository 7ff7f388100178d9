"""First-order hypergradients from a penalty on the inner loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .._autograd import add, subtract
from .._numbers import check_numbers
from .._rng import RngState
from .._types import MaybeTensors, Tensors
from ..errors import OptionError
from ._base import HypergradientMethod, Point
from ._mixed import inner_gradients, norm, scaled
from ._outer import outer_gradients
from ._result import Hypergradient


@dataclass(frozen=True)
class Penalty(HypergradientMethod):
    """F_λ(y) + γ(G_λ(y) − G_λ(z)), y near the minimum of F + γG over w, z near that of G (F2SA, Kwon et al.
    2023; BOME, Ye et al. 2022, is the same with γ chosen anew each step).

    First derivatives only. From the live parameters, `steps` gradient steps y ← y − α(G_w + F_w/γ) and
    z ← z − αG_w. With both solved exactly the error is O(1/γ); with K steps from a minimum of G and a large
    γ it is what `Implicit(Neumann(α, K))` answers, too small by what the series leaves out. Rounding grows
    with γ, because the difference is of two near numbers: in float32 stay below 10³ or so. F is evaluated
    at y, which is reported as the outer loss. All evaluations start from the live buffers and see the same
    dropout masks; several batches are one mean loss.

    Args:
        gamma: γ > 0, the weight of the penalty.
        steps: K ≥ 1, how many gradient steps y and z take.
        step_size: α > 0; below 2 / (largest curvature of G + F/γ).

    Raises:
        OptionError: an argument is out of range.
    """

    gamma: float
    steps: int
    step_size: float

    def __post_init__(self) -> None:
        check_numbers(
            "Penalty", whole={"steps": self.steps}, real={"gamma": self.gamma, "step_size": self.step_size}
        )
        if not self.gamma > 0 or self.steps < 1 or not self.step_size > 0:
            raise OptionError(
                "out of range",
                where="Penalty",
                found=repr(self),
                expected="gamma > 0, steps ≥ 1, step_size > 0",
            )

    def __call__(self, point: Point) -> Hypergradient:
        """The hypergradient at `point`."""
        rng = RngState.capture(point.devices)
        y = z = tuple(point.inner.values())
        at_y = at_z = first = inner_gradients(point, z, rng=rng)
        final = outer_gradients(point, y, at_y.buffers)
        for _ in range(self.steps):
            y = self._moved(y, add(at_y.inner, scaled(final.inner, 1 / self.gamma)))
            z = self._moved(z, at_z.inner)
            at_z = inner_gradients(point, z, rng=rng)
            at_y = inner_gradients(point, y, rng=rng)
            final = outer_gradients(point, y, at_y.buffers)
        return point.answer(
            add(final.outer, scaled(subtract(at_y.outer, at_z.outer), self.gamma)),
            outer_loss=final.loss,
            inner_losses=torch.stack([first.loss]),
            inner_gradient_norm=norm(first.inner),
        )

    def _moved(self, w: Tensors, slopes: MaybeTensors) -> Tensors:
        return tuple(
            one if slope is None else one - self.step_size * slope
            for one, slope in zip(w, slopes, strict=True)
        )
