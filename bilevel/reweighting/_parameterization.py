"""From unconstrained numbers to positive weights, and how a batch of weights is scaled."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError

Parameterization: TypeAlias = Literal["bounded_exp", "softmax", "sigmoid", "softplus"]
Normalization: TypeAlias = Literal["mean", "detached_mean", "none"]


def bounded_exp(raw: Tensor) -> Tensor:
    """exp(ln2·tanh(r/ln2)) with r = raw − batch mean, within (½, 2) (arXiv 2605.14346, cluster weights)."""
    bound = math.log(2.0)
    return torch.exp(bound * torch.tanh((raw - raw.mean()) / bound))


def softmax(raw: Tensor) -> Tensor:
    """exp(raw − largest of the batch): a softmax over the batch once it is normalised."""
    return torch.exp(raw - raw.max())


def softmax_to_be_normalized(raw: Tensor) -> Tensor:
    """The same values. The largest is held constant: it is a common scale, which the normalisation sets."""
    return torch.exp(raw - raw.detach().max())


def sigmoid(raw: Tensor) -> Tensor:
    """σ(raw), within (0, 1)."""
    return torch.sigmoid(raw)


def softplus(raw: Tensor) -> Tensor:
    """log(1 + exp(raw)), positive and unbounded."""
    return F.softplus(raw)


PARAMETERIZATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "bounded_exp": bounded_exp,
    "softmax": softmax,
    "sigmoid": sigmoid,
    "softplus": softplus,
}


def by_mean(weights: Tensor) -> Tensor:
    """weights / mean, differentiated as it stands."""
    return weights / weights.mean()


def by_detached_mean(weights: Tensor) -> Tensor:
    """weights / (mean + 1e-6), the mean being a constant in the derivative."""
    return weights / (weights.mean().detach() + 1e-6)


def as_they_are(weights: Tensor) -> Tensor:
    """weights."""
    return weights


NORMALIZATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": by_mean,
    "detached_mean": by_detached_mean,
    "none": as_they_are,
}


def weighting(
    parameterization: str, normalize: str, where: str
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """From a batch of unconstrained numbers to positive ones, and from these to its weights.

    Raises:
        OptionError: a choice is unknown.
    """
    positive = chosen(PARAMETERIZATIONS, parameterization, f"{where}(parameterization)")
    scale = chosen(NORMALIZATIONS, normalize, f"{where}(normalize)")
    if positive is softmax and normalize != "none":
        positive = softmax_to_be_normalized
    return positive, scale


def chosen(
    table: dict[str, Callable[[Tensor], Tensor]], name: str, option: str
) -> Callable[[Tensor], Tensor]:
    """The function of that name.

    Raises:
        OptionError: there is none.
    """
    if not isinstance(name, str) or name not in table:
        raise OptionError(
            "unknown choice", where=option, found=repr(name), expected=f"one of {', '.join(table)}"
        )
    return table[name]
