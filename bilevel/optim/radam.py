"""RAdam (Liu et al. 2020), as torch.optim.RAdam does it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ._base import (
    PerParameterRule,
    descent_direction,
    is_on,
    moving_average,
    read_settings,
    read_states,
    settled,
)
from .adam import AdamState, adam_state


@dataclass(frozen=True)
class RAdamSettings:
    """The settings of one torch.optim.RAdam parameter group."""

    learnable: ClassVar[tuple[str, ...]] = ("lr", "beta1", "weight_decay")

    lr: float | Tensor
    beta1: float | Tensor = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float | Tensor = 0.0
    maximize: bool = False
    decoupled: bool = False


class RAdam(PerParameterRule[RAdamSettings, AdamState]):
    """Adam whose step is rectified by r(ρₜ) once ρₜ > 5, and a step along m̂ before.

    ρₜ = ρ∞ − 2tβ₂ᵗ/(1−β₂ᵗ) with ρ∞ = 2/(1−β₂) − 1; r² = (ρₜ−4)(ρₜ−2)ρ∞ / ((ρ∞−4)(ρ∞−2)ρₜ).
    """

    def step(
        self, param: Tensor, grad: Tensor, state: AdamState | None, setting: RAdamSettings
    ) -> tuple[Tensor, AdamState]:
        """One step of one parameter."""
        if state is None:
            state = AdamState(0, torch.zeros_like(param), torch.zeros_like(param), None)
        decay = setting.weight_decay
        grad = descent_direction(param, grad, setting.maximize, 0.0 if setting.decoupled else decay)
        if setting.decoupled and is_on(decay):
            param = param * (1 - setting.lr * decay)
        step = state.step + 1
        mean = torch.lerp(state.mean, grad, 1 - setting.beta1)
        square = moving_average(state.square, grad, setting.beta2)
        new_state = AdamState(step, mean, square, None)

        correction = 1 - setting.beta2**step
        limit = 2 / (1 - setting.beta2) - 1
        length = limit - 2 * step * setting.beta2**step / correction
        if length <= 5.0:
            return param - mean / (1 - setting.beta1**step) * setting.lr, new_state
        rectified = ((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)) ** 0.5
        moved, root = settled(mean, square)
        adapted = moved / (1 - setting.beta1**step) * setting.lr * (correction**0.5 / (root + setting.eps))
        return param - adapted * rectified, new_state


def from_torch_radam(
    optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], parameters: tuple[Tensor, ...]
) -> RAdam:
    """The rule of a live torch.optim.RAdam, with its state."""
    settings = [
        replace(read_settings(RAdamSettings, group), decoupled=bool(group["decoupled_weight_decay"]))
        for group in groups
    ]
    return RAdam(settings, read_states(optimizer, parameters, adam_state))
