"""SGD with momentum, dampening, Nesterov momentum, weight decay and maximize, as torch.optim.SGD does it.

Why not `torchopt.sgd`: its momentum remembers in a closure whether it was called before, so it is not a pure
function. It would forget a momentum buffer carried over from a live optimiser at the first step, and a step
replayed in the adjoint pass would not be the step that was taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ._base import PerParameterRule, descent_direction, is_on, read_settings, scaled_add


@dataclass(frozen=True)
class SGDSettings:
    """The settings of one torch.optim.SGD parameter group."""

    learnable: ClassVar[tuple[str, ...]] = ("lr", "momentum", "weight_decay")

    lr: float | Tensor
    momentum: float | Tensor = 0.0
    dampening: float = 0.0
    weight_decay: float | Tensor = 0.0
    nesterov: bool = False
    maximize: bool = False


class SGDState(NamedTuple):
    """The momentum buffer of one parameter, in its shape."""

    buffer: Tensor


class SGD(PerParameterRule[SGDSettings, SGDState]):
    """b ← m·b + (1−d)(g + γw), b ← g + γw at the first step; w ← w − η·b, or η(g + γw + m·b) if Nesterov."""

    linear = True

    def step(
        self, param: Tensor, grad: Tensor, state: SGDState | None, setting: SGDSettings
    ) -> tuple[Tensor, SGDState | None]:
        """One step of one parameter."""
        grad = descent_direction(param, grad, setting.maximize, setting.weight_decay)
        if is_on(setting.momentum):
            if state is None:
                buffer = grad
            else:
                buffer = scaled_add(state.buffer * setting.momentum, grad, 1 - setting.dampening)
            state = SGDState(buffer)
            grad = scaled_add(grad, buffer, setting.momentum) if setting.nesterov else buffer
        return scaled_add(param, grad, -setting.lr), state


def from_torch_sgd(
    optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], parameters: tuple[Tensor, ...]
) -> SGD:
    """The rule of a live torch.optim.SGD, with its momentum buffers."""
    settings = [read_settings(SGDSettings, group) for group in groups]
    buffers = [optimizer.state.get(parameter, {}).get("momentum_buffer") for parameter in parameters]
    return SGD(settings, [None if buffer is None else SGDState(buffer.detach()) for buffer in buffers])
