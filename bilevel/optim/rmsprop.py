"""RMSprop (Hinton 2012; centered: Graves 2013), as torch.optim.RMSprop does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ._base import (
    PerParameterRule,
    descent_direction,
    is_on,
    moving_average,
    read_settings,
    read_states,
    scaled_add,
    settled,
    subtract_ratio,
)


@dataclass(frozen=True)
class RMSpropSettings:
    """The settings of one torch.optim.RMSprop parameter group."""

    learnable: ClassVar[tuple[str, ...]] = ("lr", "momentum", "weight_decay")

    lr: float | Tensor
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float | Tensor = 0.0
    momentum: float | Tensor = 0.0
    centered: bool = False
    maximize: bool = False


class RMSpropState(NamedTuple):
    """The second moment, the momentum buffer and (centered) the first moment, in the parameter's shape."""

    square: Tensor
    buffer: Tensor | None
    mean: Tensor | None


class RMSprop(PerParameterRule[RMSpropSettings, RMSpropState]):
    """v ← αv + (1−α)g², w ← w − η·b with b ← μb + g/(√v + ε); centered: v less the squared mean gradient.

    An entry whose gradients were all exactly 0 counts as constant, as in `Adam`.
    """

    def step(
        self, param: Tensor, grad: Tensor, state: RMSpropState | None, setting: RMSpropSettings
    ) -> tuple[Tensor, RMSpropState]:
        """One step of one parameter."""
        if state is None:
            zero = torch.zeros_like(param)
            state = RMSpropState(zero, None, zero if setting.centered else None)
        grad = descent_direction(param, grad, setting.maximize, setting.weight_decay)
        square, mean, buffer = moving_average(state.square, grad, setting.alpha), state.mean, state.buffer
        spread = square
        if mean is not None:
            mean = torch.lerp(mean, grad, 1 - setting.alpha)
            spread = torch.addcmul(square, mean, mean, value=-1)
        moved, root = settled(grad, spread)
        below = root + setting.eps
        if not is_on(setting.momentum):
            return subtract_ratio(param, setting.lr, moved, below), RMSpropState(square, buffer, mean)
        if buffer is None:
            buffer = torch.zeros_like(param)
        buffer = torch.addcdiv(buffer * setting.momentum, moved, below)
        return scaled_add(param, buffer, -setting.lr), RMSpropState(square, buffer, mean)


def from_torch_rmsprop(
    optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], parameters: tuple[Tensor, ...]
) -> RMSprop:
    """The rule of a live torch.optim.RMSprop, with its state."""

    def build(step: int, live: Mapping[str, Any]) -> RMSpropState:
        buffer, mean = live.get("momentum_buffer"), live.get("grad_avg")
        return RMSpropState(
            live["square_avg"].detach(),
            None if buffer is None else buffer.detach(),
            None if mean is None else mean.detach(),
        )

    settings = [read_settings(RMSpropSettings, group) for group in groups]
    return RMSprop(settings, read_states(optimizer, parameters, build))
