"""Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019), exact where a gradient is exactly 0.

Why not `torchopt.adam`: √v has an infinite slope at v = 0. There its hypergradient is NaN (`eps_root=0`, also
what torch.optim computes) or, with `eps_root>0`, that of another optimiser. Entries with v = 0 are common:
every weight of a dead ReLU unit has one. Here the derivative of the update of an entry whose gradients were
all exactly 0 is taken as 0, which is what central differences see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._base import PerParameterRule


@dataclass(frozen=True)
class AdamSettings:
    """The settings of one torch.optim.Adam or AdamW parameter group; `decoupled` is AdamW's weight decay."""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
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
        if setting.maximize:
            grad = -grad
        if setting.weight_decay != 0:
            if setting.decoupled:
                param = param * (1 - setting.lr * setting.weight_decay)
            else:
                grad = grad.add(param, alpha=setting.weight_decay)
        step = state.step + 1
        mean = torch.lerp(state.mean, grad, 1 - setting.beta1)
        square = torch.addcmul(state.square * setting.beta2, grad, grad, value=1 - setting.beta2)
        largest = None if state.largest is None else torch.maximum(state.largest, square)
        new_state = AdamState(step, mean, square, largest)

        moved, root = _safe(mean, square if largest is None else largest)
        denominator = root / (1 - setting.beta2**step) ** 0.5 + setting.eps
        step_size = setting.lr / (1 - setting.beta1**step)
        return torch.addcdiv(param, moved, denominator, value=-step_size), new_state


def _safe(mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """m and √v, constant where all gradients were exactly 0 (where v only underflowed, m still counts)."""
    if not torch.is_grad_enabled():
        return mean, square.sqrt()
    dead = square == 0
    zero = torch.zeros((), dtype=square.dtype, device=square.device)
    root = torch.where(dead, zero, torch.where(dead, zero + 1, square).sqrt())
    return torch.where(dead & (mean == 0), zero, mean), root


def from_torch_adam(
    optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], parameters: tuple[Tensor, ...]
) -> Adam:
    """The rule of a live torch.optim.Adam or AdamW, with its step counts and moments."""
    decoupled = isinstance(optimizer, torch.optim.AdamW)
    settings = []
    for group in groups:
        beta1, beta2 = group["betas"]
        settings.append(
            AdamSettings(
                lr=float(group["lr"]),
                beta1=float(beta1),
                beta2=float(beta2),
                eps=float(group["eps"]),
                weight_decay=float(group["weight_decay"]),
                amsgrad=bool(group["amsgrad"]),
                maximize=bool(group["maximize"]),
                decoupled=bool(group.get("decoupled_weight_decay", decoupled)),
            )
        )
    return Adam(settings, _live_states(optimizer, parameters))


def _live_states(optimizer: torch.optim.Optimizer, parameters: tuple[Tensor, ...]) -> list[AdamState | None]:
    live = [optimizer.state.get(parameter) or None for parameter in parameters]
    # One transfer for all counts: with capturable or fused they lie on the device.
    counts = [torch.as_tensor(state["step"]) for state in live if state is not None]
    steps = iter(torch.stack([count.to(counts[0].device) for count in counts]).tolist() if counts else [])
    return [
        None
        if state is None
        else AdamState(
            int(next(steps)),
            state["exp_avg"].detach(),
            state["exp_avg_sq"].detach(),
            state["max_exp_avg_sq"].detach() if "max_exp_avg_sq" in state else None,
        )
        for state in live
    ]
