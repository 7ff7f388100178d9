"""Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019), exact where a gradient is exactly 0.

Why not `torchopt.adam`: √v has an infinite slope at v = 0. There its hypergradient is NaN (`eps_root=0`, also
what torch.optim computes) or, with `eps_root>0`, that of another optimiser. Entries with v = 0 are common:
every weight of a dead ReLU unit has one. Here the derivative of the update of an entry whose gradients were
all exactly 0 is taken as 0, which is what central differences see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    settled,
    subtract_ratio,
)


@dataclass(frozen=True)
class AdamSettings:
    """The settings of one torch.optim.Adam or AdamW parameter group; `decoupled` is AdamW's weight decay."""

    learnable: ClassVar[tuple[str, ...]] = ("lr", "beta1", "weight_decay")

    lr: float | Tensor
    beta1: float | Tensor = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float | Tensor = 0.0
    amsgrad: bool = False
    maximize: bool = False
    decoupled: bool = False


class AdamState(NamedTuple):
    """Steps taken, and the moments of one parameter, in its shape; `largest` for amsgrad only."""

    step: int
    mean: Tensor
    square: Tensor
    largest: Tensor | None


class Adam(PerParameterRule[AdamSettings, AdamState]):
    """m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², w ← w − η·m̂/(√v̂ + ε) with m̂ = m/(1−β₁ᵗ), v̂ = v/(1−β₂ᵗ).

    Weight decay: g ← g + γw (Adam), w ← (1 − ηγ)w (AdamW). amsgrad: v̂ from the largest v so far.
    """

    def step(
        self, param: Tensor, grad: Tensor, state: AdamState | None, setting: AdamSettings
    ) -> tuple[Tensor, AdamState]:
        """One step of one parameter."""
        if state is None:
            zero = torch.zeros_like(param)
            state = AdamState(0, zero, zero, zero if setting.amsgrad else None)
        decay = setting.weight_decay
        grad = descent_direction(param, grad, setting.maximize, 0.0 if setting.decoupled else decay)
        if setting.decoupled and is_on(decay):
            param = param * (1 - setting.lr * decay)
        step = state.step + 1
        mean = torch.lerp(state.mean, grad, 1 - setting.beta1)
        square = moving_average(state.square, grad, setting.beta2)
        largest = None if state.largest is None else torch.maximum(state.largest, square)

        moved, root = settled(mean, square if largest is None else largest)
        denominator = root / (1 - setting.beta2**step) ** 0.5 + setting.eps
        step_size = setting.lr / (1 - setting.beta1**step)
        return subtract_ratio(param, step_size, moved, denominator), AdamState(step, mean, square, largest)


def from_torch_adam(
    optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], parameters: tuple[Tensor, ...]
) -> Adam:
    """The rule of a live torch.optim.Adam or AdamW, with its step counts and moments."""
    decoupled = isinstance(optimizer, torch.optim.AdamW)
    settings = [
        replace(
            read_settings(AdamSettings, group), decoupled=bool(group.get("decoupled_weight_decay", decoupled))
        )
        for group in groups
    ]
    return Adam(settings, read_states(optimizer, parameters, adam_state))


def adam_state(step: int, live: Mapping[str, Any]) -> AdamState:
    """The state of one parameter of a live Adam, AdamW or RAdam."""
    largest = live.get("max_exp_avg_sq")
    return AdamState(
        step,
        live["exp_avg"].detach(),
        live["exp_avg_sq"].detach(),
        None if largest is None else largest.detach(),
    )
