"""The optimiser that really moves parameters: a torch.optim one, or an update rule with its state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ._plain import plain
from ._rule_state import pack, unpack
from ._types import MaybeTensors, Tensors
from .errors import OptionError, OwnershipError, StateError, UnsupportedOptimizerError
from .optim import LearnedSettings, UpdateRule, as_rule
from .optim._base import State


class LiveOptimizer(ABC):
    """Applies gradients to the live parameters of one level."""

    @abstractmethod
    def apply(self, parameters: Sequence[Tensor], grads: MaybeTensors, outer: Mapping[str, Tensor]) -> None:
        """One step; a gradient None leaves its parameter alone. `.grad` fields are afterwards as before."""

    @abstractmethod
    def rule(self, parameters: Mapping[str, Tensor]) -> UpdateRule:
        """The same optimiser as a pure function, starting from its present state; valid until the next step.

        Raises:
            UnsupportedOptimizerError: it has no differentiable update rule.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """A plain nested dict of tensors and values that JSON knows."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""


class TorchOptimizer(LiveOptimizer):
    """Any torch.optim optimiser whose `step()` needs no closure."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def apply(self, parameters: Sequence[Tensor], grads: MaybeTensors, outer: Mapping[str, Tensor]) -> None:
        """One `optimizer.step()`; see `LiveOptimizer.apply`."""
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._check_holds(held, parameters)
        before = [p.grad for p in held]
        try:
            # A stale gradient of a frozen or unused parameter must not be applied along with ours.
            for p in held:
                p.grad = None
            for p, grad in zip(parameters, grads, strict=True):
                p.grad = None if grad is None else _laid_out(grad, p)  # as `backward()` does
            self.optimizer.step()
        finally:
            for p, grad in zip(held, before, strict=True):
                p.grad = grad

    def _check_holds(self, held: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        """Raise `OwnershipError` for a parameter that was thawed and would never move."""
        known = {id(p) for p in held}
        missing = [p for p in parameters if id(p) not in known]
        if missing:
            raise OwnershipError(
                "the optimiser does not hold a parameter that requires a gradient now",
                where=type(self.optimizer).__name__,
                found=f"shapes {_some([str(tuple(p.shape)) for p in missing])}",
                fix="call optimizer.add_param_group, or freeze it again with requires_grad_(False)",
            )

    def rule(self, parameters: Mapping[str, Tensor]) -> UpdateRule:
        """See `LiveOptimizer.rule`."""
        return as_rule(self.optimizer, parameters)

    def state_dict(self) -> dict[str, Any]:
        """See `LiveOptimizer.state_dict`."""
        state = self.optimizer.state_dict()
        return {
            "state": {str(index): plain(one) for index, one in state["state"].items()},
            "param_groups": {str(index): plain(group) for index, group in enumerate(state["param_groups"])},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `LiveOptimizer.load_state_dict`."""
        now = self.optimizer.state_dict()["param_groups"]
        if len(state["param_groups"]) != len(now):
            raise StateError(
                "the optimiser has another number of parameter groups",
                where=type(self.optimizer).__name__,
                found=len(state["param_groups"]),
                expected=len(now),
            )
        groups = [
            {
                key: tuple(value) if isinstance(group.get(key), tuple) else value
                for key, value in saved.items()
            }
            for group, saved in zip(
                now, (state["param_groups"][str(i)] for i in range(len(now))), strict=True
            )
        ]
        self.optimizer.load_state_dict(
            {
                # Cloned: torch keeps tensors that fit, and would go on to write into the saved ones.
                "state": {int(index): _cloned(one) for index, one in state["state"].items()},
                "param_groups": groups,
            }
        )
        # torch casts all of the state but `step` to the parameter's type: NAdam's running product and ASGD's
        # step size, kept in another one, would go on rounded otherwise.
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        for index, saved in state["state"].items():
            live = self.optimizer.state[held[int(index)]]
            for key, value in saved.items():
                if isinstance(value, Tensor) and live[key].dtype != value.dtype:
                    live[key] = value.detach().clone().to(live[key].device)
        for p in held:
            kept = self.optimizer.state.get(p, {})
            for key, value in kept.items():
                if isinstance(value, Tensor) and value.shape == p.shape:
                    kept[key] = _laid_out(value, p)


def _cloned(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value.detach().clone() if isinstance(value, Tensor) else value for key, value in state.items()
    }


class LearnedOptimizer(TorchOptimizer):
    """A torch.optim optimiser that takes some of its settings from the outer parameters."""

    def __init__(self, settings: LearnedSettings) -> None:
        super().__init__(settings.optimizer)
        self.settings = settings

    def apply(self, parameters: Sequence[Tensor], grads: MaybeTensors, outer: Mapping[str, Tensor]) -> None:
        """One step with the present settings; see `LiveOptimizer.apply`."""
        self.settings.write(outer)
        super().apply(parameters, grads, outer)

    def rule(self, parameters: Mapping[str, Tensor]) -> UpdateRule:
        """See `LiveOptimizer.rule`."""
        return as_rule(self.settings, parameters)


class RuleOptimizer(LiveOptimizer):
    """An update rule (a torchopt transformation, or one's own) applied for real, with its state kept here."""

    def __init__(self, rule: object, parameters: Mapping[str, Tensor]) -> None:
        self._rule = as_rule(rule, parameters)
        self._names = tuple(parameters)
        self._ids = [id(p) for p in parameters.values()]
        self._parameters = tuple(p.detach() for p in parameters.values())
        self._initial = self._rule.init(self._parameters)
        self.state = self._initial

    def apply(self, parameters: Sequence[Tensor], grads: MaybeTensors, outer: Mapping[str, Tensor]) -> None:
        """One `rule.update()`; see `LiveOptimizer.apply`."""
        if [id(p) for p in parameters] != self._ids:
            raise self._changed(len(parameters))
        with torch.no_grad():
            new, self.state = self._rule.update(
                tuple(p.detach() for p in parameters), grads, self.state, outer
            )
            for parameter, value in zip(parameters, new, strict=True):
                parameter.copy_(value)

    def rule(self, parameters: Mapping[str, Tensor]) -> UpdateRule:
        """See `LiveOptimizer.rule`."""
        if tuple(parameters) != self._names:
            raise self._changed(len(parameters))
        return _Resumed(self._rule, self.state)

    def state_dict(self) -> dict[str, Any]:
        """See `LiveOptimizer.state_dict`."""
        return pack(self.state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `LiveOptimizer.load_state_dict`."""
        try:
            self.state = unpack(state, (lambda: self.state, lambda: self._initial, self._used))
        except LookupError as error:
            raise StateError(
                "the update rule has a state of another size",
                where=type(self._rule).__name__,
                found=f"{len(state['leaves'])} values",
                expected=f"{len(pack(self.state)['leaves'])} values",
            ) from error

    def _used(self) -> State:
        """A state as it looks once every parameter was updated; some rules start with an empty one."""
        zeros = tuple(torch.zeros_like(p) for p in self._parameters)
        with torch.no_grad():
            return self._rule.update(self._parameters, zeros, self._initial, {})[1]

    def _changed(self, count: int) -> OwnershipError:
        return OwnershipError(
            "the set of trainable parameters changed",
            where=type(self._rule).__name__,
            found=f"{count} parameters",
            expected=f"the {len(self._names)} parameters that it started with",
            fix="use a torch.optim optimiser if parameters are frozen or thawed during training",
        )


class _Resumed(UpdateRule):
    """A rule that starts from a given state."""

    def __init__(self, rule: UpdateRule, state: State) -> None:
        self._rule = rule
        self._state = state
        self.linear = rule.linear

    def init(self, params: Tensors) -> State:
        return self._state

    def update(
        self, params: Tensors, grads: MaybeTensors, state: State, outer: Mapping[str, Tensor]
    ) -> tuple[Tensors, State]:
        return self._rule.update(params, grads, state, outer)


def live_optimizer(optimizer: object, parameters: Mapping[str, Tensor], level: str) -> LiveOptimizer:
    """Adapt what the user passed, after checking that it holds the parameters of its level and no others.

    Raises:
        UnsupportedOptimizerError: it is no optimiser, or one whose step needs a closure.
        OwnershipError: it misses a parameter, or holds a trainable one that is not of this level.
    """
    where = f"{level}_optimizer ({type(optimizer).__name__})"
    if isinstance(optimizer, LearnedSettings):
        if level == "outer":
            raise OptionError("only settings of the inner optimiser can be learned", where=where)
        live_optimizer(optimizer.optimizer, parameters, level)  # the checks
        as_rule(optimizer, parameters)
        return LearnedOptimizer(optimizer)
    if not isinstance(optimizer, torch.optim.Optimizer):
        return RuleOptimizer(optimizer, parameters)
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UnsupportedOptimizerError(
            "its step evaluates the loss by itself", where=where, fix="choose a first-order optimiser"
        )
    held = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in parameters.items() if id(p) not in held]
    if missing:
        raise OwnershipError(
            f"the optimiser does not hold all trainable parameters of `{level}`",
            where=where,
            found=f"without {_some(missing)}",
            fix=f"build it from {level}.parameters(), or freeze the others with requires_grad_(False)",
        )
    known = {id(p) for p in parameters.values()}
    foreign = [p for p in held.values() if p.requires_grad and id(p) not in known]
    if foreign:
        raise OwnershipError(
            f"the optimiser holds parameters that are not parameters of `{level}`",
            where=where,
            found=f"shapes {_some([str(tuple(p.shape)) for p in foreign])}",
            expected="each parameter in one optimiser; one reachable from both modules belongs to `outer`",
            fix="leave them out, or move their module into `inner`",
        )
    return TorchOptimizer(optimizer)


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """A gradient or moment with its entries in the parameter's order in memory.

    Fused optimisers go through all of them as they lie there; on a CPU they do not even notice a difference.
    """
    if value.layout != torch.strided:
        return value
    sizes = zip(value.shape, value.stride(), parameter.stride(), strict=True)
    if all(own == wanted for size, own, wanted in sizes if size > 1):
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
