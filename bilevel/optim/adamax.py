"""Adamax (Kingma and Ba 2015, section 7.1), as torch.optim.Adamax does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ._base import PerParameterRule, descent_direction, read_settings, read_states, subtract_ratio


@dataclass(frozen=True)
class AdamaxSettings:
    """The settings of one torch.optim.Adamax parameter group."""

    learnable: ClassVar[tuple[str, ...]] = ("lr", "beta1", "weight_decay")

    lr: float | Tensor
    beta1: float | Tensor = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float | Tensor = 0.0
    maximize: bool = False


class AdamaxState(NamedTuple):
    """Steps taken, the first moment, and the decayed largest |g|, in the parameter's shape."""

    step: int
    mean: Tensor
    largest: Tensor


class Adamax(PerParameterRule[AdamaxSettings, AdamaxState]):
    """m ← β₁m + (1−β₁)g, u ← max(β₂u, |g| + ε), w ← w − η·m/((1−β₁ᵗ)u).

    An entry whose gradients were all exactly 0 counts as constant, as in `Adam`.
    """

    def step(
        self, param: Tensor, grad: Tensor, state: AdamaxState | None, setting: AdamaxSettings
    ) -> tuple[Tensor, AdamaxState]:
        """One step of one parameter."""
        if state is None:
            state = AdamaxState(0, torch.zeros_like(param), torch.zeros_like(param))
        grad = descent_direction(param, grad, setting.maximize, setting.weight_decay)
        step = state.step + 1
        mean = torch.lerp(state.mean, grad, 1 - setting.beta1)
        largest = torch.maximum(state.largest * setting.beta2, grad.abs() + setting.eps)
        moved = mean
        if torch.is_grad_enabled():
            moved = torch.where((mean == 0) & (grad == 0), torch.zeros_like(mean), mean)
        step_size = setting.lr / (1 - setting.beta1**step)
        return subtract_ratio(param, step_size, moved, largest), AdamaxState(step, mean, largest)


def from_torch_adamax(
    optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], parameters: tuple[Tensor, ...]
) -> Adamax:
    """The rule of a live torch.optim.Adamax, with its state."""

    def build(step: int, live: Mapping[str, Any]) -> AdamaxState:
        return AdamaxState(step, live["exp_avg"].detach(), live["exp_inf"].detach())

    settings = [read_settings(AdamaxSettings, group) for group in groups]
    return Adamax(settings, read_states(optimizer, parameters, build))
