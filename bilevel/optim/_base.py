"""What a differentiable optimiser is: a pure function of parameters, gradients and state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torchopt
from torch import Tensor

from .._types import MaybeTensors, Tensors

State = Any  # a tree of tensors, numbers and None, made of tuples, named tuples, lists and dicts
Settings = TypeVar("Settings")
ParameterState = TypeVar("ParameterState")


class UpdateRule(ABC):
    """One optimiser step as a pure, differentiable function.

    To add an optimiser, subclass this (or `PerParameterRule`), keep every tensor operation out of place and
    differentiable, and never write to an argument.
    """

    linear: bool = False
    """Whether new parameters and state are linear in parameters, gradients and state, with constant
    coefficients: then the adjoint pass needs no stored optimiser state."""

    @abstractmethod
    def init(self, params: Tensors) -> State:
        """The state before the first step, for parameters in this order."""

    @abstractmethod
    def update(
        self, params: Tensors, grads: MaybeTensors, state: State, outer: Mapping[str, Tensor]
    ) -> tuple[Tensors, State]:
        """One step.

        Args:
            params: the inner parameters.
            grads: the gradient of the inner loss for each; None where the loss does not use the parameter.
            state: what `init` or the previous `update` answered.
            outer: the outer parameters by name, for rules whose settings are learned.

        Returns:
            The new parameters and the new state.
        """


class PerParameterRule(UpdateRule, Generic[Settings, ParameterState]):
    """A rule that treats each parameter on its own, like every first-order torch.optim optimiser.

    As in torch.optim, a parameter without a gradient stays as it is, and so does its state. The state is a
    tuple with one entry a parameter, None where it was never updated.

    Args:
        settings: the settings of each parameter, those of its parameter group.
        states: the state that each parameter starts from.
    """

    def __init__(self, settings: Sequence[Settings], states: Sequence[ParameterState | None]) -> None:
        self.settings = tuple(settings)
        self.states = tuple(states)

    def init(self, params: Tensors) -> State:
        """The carried state."""
        return self.states

    def update(
        self, params: Tensors, grads: MaybeTensors, state: State, outer: Mapping[str, Tensor]
    ) -> tuple[Tensors, State]:
        """One step; see `UpdateRule.update`."""
        pairs = [
            (param, one) if grad is None else self.step(param, grad, one, setting)
            for param, grad, one, setting in zip(params, grads, state, self.settings, strict=True)
        ]
        return tuple(param for param, _ in pairs), tuple(one for _, one in pairs)

    @abstractmethod
    def step(
        self, param: Tensor, grad: Tensor, state: ParameterState | None, setting: Settings
    ) -> tuple[Tensor, ParameterState | None]:
        """One step of one parameter; a state of None is that of a parameter never updated."""


def differentiable_leaves(state: State) -> list[Tensor]:
    """The floating-point tensors of a state, in a fixed order; counts and flags are constants."""
    return [leaf for leaf in torchopt.pytree.tree_leaves(state) if _is_differentiable(leaf)]


def replace_leaves(state: State, change: Callable[[Tensor], Tensor]) -> State:
    """The same state with each floating-point tensor changed."""
    return torchopt.pytree.tree_map(lambda leaf: change(leaf) if _is_differentiable(leaf) else leaf, state)


def _is_differentiable(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
