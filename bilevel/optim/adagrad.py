"""Adagrad (Duchi et al. 2011), as torch.optim.Adagrad does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ._base import PerParameterRule, descent_direction, read_settings, read_states, settled, subtract_ratio


@dataclass(frozen=True)
class AdagradSettings:
    """The settings of one torch.optim.Adagrad parameter group."""

    learnable: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")

    lr: float | Tensor
    lr_decay: float = 0.0
    weight_decay: float | Tensor = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10
    maximize: bool = False


class AdagradState(NamedTuple):
    """Steps taken, and the sum of squared gradients, in the parameter's shape."""

    step: int
    total: Tensor


class Adagrad(PerParameterRule[AdagradSettings, AdagradState]):
    """s ← s + g², w ← w − η/(1 + (t−1)·decay) · g/(√s + ε).

    An entry whose gradients were all exactly 0 counts as constant, as in `Adam`.
    """

    def step(
        self, param: Tensor, grad: Tensor, state: AdagradState | None, setting: AdagradSettings
    ) -> tuple[Tensor, AdagradState]:
        """One step of one parameter."""
        if state is None:
            state = AdagradState(0, torch.full_like(param, setting.initial_accumulator_value))
        grad = descent_direction(param, grad, setting.maximize, setting.weight_decay)
        total = torch.addcmul(state.total, grad, grad)
        moved, root = settled(grad, total)
        step_size = setting.lr / (1 + state.step * setting.lr_decay)
        new = subtract_ratio(param, step_size, moved, root + setting.eps)
        return new, AdagradState(state.step + 1, total)


def from_torch_adagrad(
    optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], parameters: tuple[Tensor, ...]
) -> Adagrad:
    """The rule of a live torch.optim.Adagrad, with its state."""

    def build(step: int, live: Mapping[str, Any]) -> AdagradState:
        return AdagradState(step, live["sum"].detach())

    settings = [read_settings(AdagradSettings, group) for group in groups]
    return Adagrad(settings, read_states(optimizer, parameters, build))
