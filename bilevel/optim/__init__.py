"""Differentiable optimisers: one step as a pure function of gradients, state and parameters."""

from ._base import PerParameterRule, UpdateRule
from .adadelta import Adadelta, AdadeltaSettings, AdadeltaState
from .adagrad import Adagrad, AdagradSettings, AdagradState
from .adam import Adam, AdamSettings, AdamState
from .adamax import Adamax, AdamaxSettings, AdamaxState
from .asgd import ASGD, ASGDSettings, ASGDState
from .from_torch import as_rule, from_torch, supported_optimizers
from .higher_rule import HigherRule
from .learned import LearnedRule, LearnedSettings
from .nadam import NAdam, NAdamSettings, NAdamState
from .radam import RAdam, RAdamSettings
from .rmsprop import RMSprop, RMSpropSettings, RMSpropState
from .sgd import SGD, SGDSettings, SGDState
from .torchopt_rule import TorchoptRule

__all__ = [
    "ASGD",
    "SGD",
    "ASGDSettings",
    "ASGDState",
    "Adadelta",
    "AdadeltaSettings",
    "AdadeltaState",
    "Adagrad",
    "AdagradSettings",
    "AdagradState",
    "Adam",
    "AdamSettings",
    "AdamState",
    "Adamax",
    "AdamaxSettings",
    "AdamaxState",
    "HigherRule",
    "LearnedRule",
    "LearnedSettings",
    "NAdam",
    "NAdamSettings",
    "NAdamState",
    "PerParameterRule",
    "RAdam",
    "RAdamSettings",
    "RMSprop",
    "RMSpropSettings",
    "RMSpropState",
    "SGDSettings",
    "SGDState",
    "TorchoptRule",
    "UpdateRule",
    "as_rule",
    "from_torch",
    "supported_optimizers",
]
