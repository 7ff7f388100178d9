"""Adadelta (Zeiler 2012), as torch.optim.Adadelta does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ._base import (
    PerParameterRule,
    descent_direction,
    moving_average,
    read_settings,
    read_states,
    scaled_add,
)


@dataclass(frozen=True)
class AdadeltaSettings:
    """The settings of one torch.optim.Adadelta parameter group."""

    learnable: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")

    lr: float | Tensor
    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float | Tensor = 0.0
    maximize: bool = False


class AdadeltaState(NamedTuple):
    """The averages of squared gradients and of squared changes, in the parameter's shape."""

    square: Tensor
    changes: Tensor


class Adadelta(PerParameterRule[AdadeltaSettings, AdadeltaState]):
    """v ← ρv + (1−ρ)g², d = g·√(a + ε)/√(v + ε), a ← ρa + (1−ρ)d², w ← w − η·d.

    ε stands under the root, so nothing needs care where a gradient is 0.
    """

    def step(
        self, param: Tensor, grad: Tensor, state: AdadeltaState | None, setting: AdadeltaSettings
    ) -> tuple[Tensor, AdadeltaState]:
        """One step of one parameter."""
        if state is None:
            state = AdadeltaState(torch.zeros_like(param), torch.zeros_like(param))
        grad = descent_direction(param, grad, setting.maximize, setting.weight_decay)
        square = moving_average(state.square, grad, setting.rho)
        change = (state.changes + setting.eps).sqrt() / (square + setting.eps).sqrt() * grad
        changes = moving_average(state.changes, change, setting.rho)
        return scaled_add(param, change, -setting.lr), AdadeltaState(square, changes)


def from_torch_adadelta(
    optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], parameters: tuple[Tensor, ...]
) -> Adadelta:
    """The rule of a live torch.optim.Adadelta, with its state."""

    def build(step: int, live: Mapping[str, Any]) -> AdadeltaState:
        return AdadeltaState(live["square_avg"].detach(), live["acc_delta"].detach())

    settings = [read_settings(AdadeltaSettings, group) for group in groups]
    return Adadelta(settings, read_states(optimizer, parameters, build))
