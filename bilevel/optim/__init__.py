"""Differentiable optimisers: one step as a pure function of gradients, state and parameters."""

from ._base import PerParameterRule, UpdateRule
from .adam import Adam, AdamSettings, AdamState
from .from_torch import as_rule, from_torch, supported_optimizers
from .sgd import SGD, SGDSettings, SGDState
from .torchopt_rule import TorchoptRule

__all__ = [
    "SGD",
    "Adam",
    "AdamSettings",
    "AdamState",
    "PerParameterRule",
    "SGDSettings",
    "SGDState",
    "TorchoptRule",
    "UpdateRule",
    "as_rule",
    "from_torch",
    "supported_optimizers",
]
