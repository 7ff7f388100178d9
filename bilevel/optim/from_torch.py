"""The differentiable counterpart of a live torch.optim optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torchopt
from torch import Tensor

from .._types import Tensors
from ..errors import OwnershipError, UnsupportedOptimizerError
from ._base import PerParameterRule, UpdateRule, replace_leaves
from .adadelta import from_torch_adadelta
from .adagrad import from_torch_adagrad
from .adam import from_torch_adam
from .adamax import from_torch_adamax
from .asgd import from_torch_asgd
from .higher_rule import HigherRule
from .learned import LearnedSettings
from .nadam import from_torch_nadam
from .radam import from_torch_radam
from .rmsprop import from_torch_rmsprop
from .sgd import from_torch_sgd
from .torchopt_rule import TorchoptRule

Factory = Callable[
    [torch.optim.Optimizer, list[dict[str, Any]], tuple[Tensor, ...]], PerParameterRule[Any, Any]
]

# By exact class: the step of a subclass may be another one. One more is one file and one line here.
_FACTORIES: dict[type[torch.optim.Optimizer], Factory] = {
    torch.optim.SGD: from_torch_sgd,
    torch.optim.Adam: from_torch_adam,
    torch.optim.AdamW: from_torch_adam,
    torch.optim.Adamax: from_torch_adamax,
    torch.optim.RMSprop: from_torch_rmsprop,
    torch.optim.Adagrad: from_torch_adagrad,
    torch.optim.Adadelta: from_torch_adadelta,
    torch.optim.RAdam: from_torch_radam,
    torch.optim.NAdam: from_torch_nadam,
    torch.optim.ASGD: from_torch_asgd,
}


def supported_optimizers() -> tuple[str, ...]:
    """The torch.optim classes that `from_torch` takes."""
    return tuple(sorted(f"torch.optim.{cls.__name__}" for cls in _FACTORIES))


def from_torch(
    optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor] | None = None, *, copy: bool = True
) -> UpdateRule:
    """The update rule of a live optimiser: its settings group by group, starting from its present state.

    The rule is a snapshot: steps that the optimiser takes later do not change it. One step of the rule
    moves parameters as one `optimizer.step()` would.

    Args:
        optimizer: an instance of one of `supported_optimizers()`, or of a class registered with
            `higher.register_optim`, whose live state is always copied.
        parameters: the parameters, in the order in which the rule will see them; by default those of
            `optimizer.param_groups`, in order.
        copy: copy the live state. Without, the rule is valid until the optimiser's next step.

    Raises:
        UnsupportedOptimizerError: there is no rule for this class; the message lists those there are.
        OwnershipError: a parameter is in no parameter group.
    """
    chosen = _held(optimizer, parameters)
    if type(optimizer) not in _FACTORIES and not isinstance(optimizer, torch.optim.Rprop):
        registered = HigherRule.registered(optimizer, chosen)
        if registered is not None:
            return registered
    return _per_parameter(optimizer, chosen, copy)


def _per_parameter(
    optimizer: torch.optim.Optimizer, chosen: Tensors, copy: bool
) -> PerParameterRule[Any, Any]:
    if isinstance(optimizer, torch.optim.Rprop):
        raise UnsupportedOptimizerError(
            "its steps depend on the sign of the gradient only, so no hypergradient flows through them",
            where="inner_optimizer",
            found="torch.optim.Rprop",
            expected=f"one of {', '.join(supported_optimizers())}",
            fix="choose one of these, or a method that needs no unrolling (Implicit, GaussNewton)",
        )
    factory = _FACTORIES.get(type(optimizer))
    if factory is None:
        raise UnsupportedOptimizerError(
            "no differentiable update rule for this optimiser",
            where="inner_optimizer",
            found=f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
            expected=f"one of {', '.join(supported_optimizers())}, one registered with "
            "higher.register_optim, a torchopt transformation such as torchopt.adam(1e-3), or a "
            "bilevel.UpdateRule",
            fix="choose one of these, or a method that needs no unrolling (Implicit, GaussNewton)",
        )
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    rule: PerParameterRule[Any, Any] = factory(optimizer, [group_of[id(p)] for p in chosen], chosen)
    if copy:
        rule.states = replace_leaves(rule.states, torch.clone)
    return rule


def _held(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor] | None) -> Tensors:
    """The chosen parameters, or all, after checking that the optimiser holds them."""
    held = tuple(p for group in optimizer.param_groups for p in group["params"])
    if parameters is None:
        return held
    known = {id(p) for p in held}
    chosen = tuple(parameters)
    for index, parameter in enumerate(chosen):
        if id(parameter) not in known:
            raise OwnershipError(
                "the optimiser does not hold a parameter",
                where=f"{type(optimizer).__name__}",
                found=f"parameter {index} of shape {tuple(parameter.shape)} is in no parameter group",
            )
    return chosen


def as_rule(optimizer: object, parameters: Mapping[str, Tensor]) -> UpdateRule:
    """Whatever a user may pass as inner optimiser, as an update rule for these parameters.

    Raises:
        UnsupportedOptimizerError: it is nothing that has, or is, an update rule.
    """
    if isinstance(optimizer, UpdateRule):
        return optimizer
    if isinstance(optimizer, torchopt.base.GradientTransformation):
        return TorchoptRule(optimizer)
    if isinstance(optimizer, LearnedSettings):
        held = _held(optimizer.optimizer, parameters.values())
        return optimizer.rule(_per_parameter(optimizer.optimizer, held, copy=False), held)
    if isinstance(optimizer, torch.optim.Optimizer):
        return from_torch(optimizer, parameters.values(), copy=False)
    raise UnsupportedOptimizerError(
        "not an optimiser",
        where="inner_optimizer",
        found=f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        expected=f"one of {', '.join(supported_optimizers())}, a torchopt gradient transformation such as "
        "torchopt.adam(1e-3) (not its torch-like torchopt.Adam), a bilevel.LearnedSettings or UpdateRule",
    )
