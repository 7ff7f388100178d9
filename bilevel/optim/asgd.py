"""Averaged SGD (Polyak and Juditsky 1992), as torch.optim.ASGD does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ._base import (
    PerParameterRule,
    descent_direction,
    dtype_name,
    read_settings,
    read_states,
    scalar_precision,
    scaled_add,
)


@dataclass(frozen=True)
class ASGDSettings:
    """The settings of one torch.optim.ASGD parameter group that matter to the parameters themselves."""

    learnable: ClassVar[tuple[str, ...]] = ("weight_decay",)

    lr: float
    lambd: float = 1e-4
    alpha: float = 0.75
    weight_decay: float | Tensor = 0.0
    maximize: bool = False


class ASGDState(NamedTuple):
    """Steps taken and the present step size, which torch.optim rounds to `precision`."""

    step: int
    eta: float
    precision: str


class ASGD(PerParameterRule[ASGDSettings, ASGDState]):
    """w ← (1 − λη)w − ηg with η = lr/(1 + λ·lr·t)^α.

    The running average that torch.optim keeps beside the parameters does not act back on them and takes no
    part here.
    """

    def step(
        self, param: Tensor, grad: Tensor, state: ASGDState | None, setting: ASGDSettings
    ) -> tuple[Tensor, ASGDState]:
        """One step of one parameter."""
        if state is None:
            precision = scalar_precision()
            state = ASGDState(
                0, torch.tensor(setting.lr, dtype=getattr(torch, precision), device="cpu").item(), precision
            )
        grad = descent_direction(param, grad, setting.maximize, setting.weight_decay)
        new = scaled_add(param * (1 - setting.lambd * state.eta), grad, -state.eta)
        step = state.step + 1
        eta = setting.lr / (1 + setting.lambd * setting.lr * step) ** setting.alpha
        # torch.optim makes a tensor of torch's default type of it before it copies it into the state.
        rounded = torch.as_tensor(eta, device="cpu").to(getattr(torch, state.precision)).item()
        return new, ASGDState(step, rounded, state.precision)


def from_torch_asgd(
    optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], parameters: tuple[Tensor, ...]
) -> ASGD:
    """The rule of a live torch.optim.ASGD, with its state."""

    def build(step: int, live: Mapping[str, Any]) -> ASGDState:
        eta = torch.as_tensor(live["eta"])
        return ASGDState(step, eta.item(), dtype_name(eta))

    settings = [read_settings(ASGDSettings, group) for group in groups]
    return ASGD(settings, read_states(optimizer, parameters, build))
