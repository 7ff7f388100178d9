"""NAdam (Dozat 2016), as torch.optim.NAdam does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ._base import (
    PerParameterRule,
    descent_direction,
    dtype_name,
    is_on,
    moving_average,
    read_settings,
    read_states,
    scalar_precision,
    settled,
    subtract_ratio,
)


@dataclass(frozen=True)
class NAdamSettings:
    """The settings of one torch.optim.NAdam parameter group."""

    learnable: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")

    lr: float | Tensor
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float | Tensor = 0.0
    momentum_decay: float = 4e-3
    maximize: bool = False
    decoupled: bool = False


class NAdamState(NamedTuple):
    """Steps taken, the product of the momenta so far, and the moments in the parameter's shape.

    torch.optim keeps the product in `precision`, its scalar type; so does this, to round as it does.
    """

    step: int
    product: float
    precision: str
    mean: Tensor
    square: Tensor


class NAdam(PerParameterRule[NAdamSettings, NAdamState]):
    """w ← w − η·[(1−μₜ)g/(1−Πμ) + μₜ₊₁m/(1−Πμ·μₜ₊₁)] / (√v̂ + ε), with μₜ = β₁(1 − ½·0.96^(tψ)).

    An entry whose gradients were all exactly 0 counts as constant, as in `Adam`.
    """

    def step(
        self, param: Tensor, grad: Tensor, state: NAdamState | None, setting: NAdamSettings
    ) -> tuple[Tensor, NAdamState]:
        """One step of one parameter."""
        if state is None:
            precision = scalar_precision()
            state = NAdamState(0, 1.0, precision, torch.zeros_like(param), torch.zeros_like(param))
        decay = setting.weight_decay
        grad = descent_direction(param, grad, setting.maximize, 0.0 if setting.decoupled else decay)
        if setting.decoupled and is_on(decay):
            param = param * (1 - setting.lr * decay)
        step = state.step + 1
        now, following = (
            setting.beta1 * (1.0 - 0.5 * 0.96 ** (t * setting.momentum_decay)) for t in (step, step + 1)
        )
        product = torch.tensor(state.product, dtype=getattr(torch, state.precision), device="cpu")
        product = (product * now).item()
        mean = torch.lerp(state.mean, grad, 1 - setting.beta1)
        square = moving_average(state.square, grad, setting.beta2)

        moved, root = settled(mean, square / (1 - setting.beta2**step))
        current, _ = settled(grad, square)
        below = root + setting.eps
        param = subtract_ratio(param, setting.lr * (1.0 - now) / (1.0 - product), current, below)
        param = subtract_ratio(param, setting.lr * following / (1.0 - product * following), moved, below)
        return param, NAdamState(step, product, state.precision, mean, square)


def from_torch_nadam(
    optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], parameters: tuple[Tensor, ...]
) -> NAdam:
    """The rule of a live torch.optim.NAdam, with its state."""

    def build(step: int, live: Mapping[str, Any]) -> NAdamState:
        product = torch.as_tensor(live["mu_product"])
        moments = live["exp_avg"].detach(), live["exp_avg_sq"].detach()
        return NAdamState(step, product.item(), dtype_name(product), *moments)

    settings = [
        replace(read_settings(NAdamSettings, group), decoupled=bool(group["decoupled_weight_decay"]))
        for group in groups
    ]
    return NAdam(settings, read_states(optimizer, parameters, build))
