"""What a differentiable optimiser is: a pure function of parameters, gradients and state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Generic, TypeVar

import torch
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
        return self.update_with(self.settings, params, grads, state)

    def update_with(
        self, settings: Sequence[Settings], params: Tensors, grads: MaybeTensors, state: State
    ) -> tuple[Tensors, State]:
        """One step with other settings than the carried ones, such as learned ones."""
        pairs = [
            (param, one) if grad is None else self.step(param, grad, one, setting)
            for param, grad, one, setting in zip(params, grads, state, settings, strict=True)
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


def scaled_add(left: Tensor, right: Tensor, factor: float | Tensor) -> Tensor:
    """`left + factor · right`, for a number or a learned tensor, rounded as torch.optim rounds."""
    if isinstance(factor, Tensor):
        return torch.addcmul(left, right, factor)
    return left.add(right, alpha=factor)


def is_on(setting: float | Tensor) -> bool:
    """Whether a term with this factor takes part; a learned factor does even where it is 0."""
    return isinstance(setting, Tensor) or setting != 0


def descent_direction(
    param: Tensor, grad: Tensor, maximize: bool, weight_decay: float | Tensor = 0.0
) -> Tensor:
    """The gradient with its sign for maximize and the l2 term of weight decay."""
    if maximize:
        grad = -grad
    return scaled_add(grad, param, weight_decay) if is_on(weight_decay) else grad


def moving_average(old: Tensor, new: Tensor, keep: float) -> Tensor:
    """keep · old + (1 − keep) · new², the second moment, rounded as torch.optim rounds."""
    return torch.addcmul(old * keep, new, new, value=1 - keep)


def subtract_ratio(param: Tensor, scale: float | Tensor, above: Tensor, below: Tensor) -> Tensor:
    """param − scale · above / below, for a number or a learned tensor."""
    if isinstance(scale, Tensor):
        return param - scale * above / below
    return torch.addcdiv(param, above, below, value=-scale)


def settled(moved: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """The numerator and √square, both constant where all gradients so far were exactly 0.

    √ has an infinite slope there, and numerator/(√ + ε) one of 1/ε. Where the square only underflowed, the
    numerator still counts.
    """
    if not torch.is_grad_enabled():
        return moved, square.sqrt()
    dead = square == 0
    zero = torch.zeros((), dtype=square.dtype, device=square.device)
    root = torch.where(dead, zero, torch.where(dead, zero + 1, square).sqrt())
    return torch.where(dead & (moved == 0), zero, moved), root


def no_nan_where_zero(tensor: Tensor) -> Tensor:
    """The same tensor, whose derivative is 0 where it would be NaN and the tensor itself is exactly 0."""
    if not (torch.is_grad_enabled() and tensor.requires_grad):
        return tensor
    result = tensor.view_as(tensor)
    result.register_hook(lambda slope: slope.masked_fill(slope.isnan() & (tensor == 0), 0))
    return result


def read_settings(kind: type[Settings], group: Mapping[str, Any]) -> Settings:
    """A settings dataclass from a torch.optim parameter group, field by field; betas become beta1, beta2."""
    values = dict(group)
    if "betas" in values:
        values["beta1"], values["beta2"] = values["betas"]
    names = [field.name for field in fields(kind) if field.name in values]  # type: ignore[arg-type]
    return kind(**{name: _constant(values[name]) for name in names})


def read_states(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    build: Callable[[int, Mapping[str, Any]], ParameterState],
) -> list[ParameterState | None]:
    """The live state of each parameter, `build(steps taken, torch.optim's state)`; None if never updated."""
    live = [optimizer.state.get(parameter) or None for parameter in parameters]
    # One transfer for all counts: with capturable or fused they lie on the device.
    counts = [torch.as_tensor(state["step"]) for state in live if state is not None]
    steps = iter(torch.stack([count.to(counts[0].device) for count in counts]).tolist() if counts else [])
    return [None if state is None else build(int(next(steps)), state) for state in live]


def dtype_name(tensor: Tensor) -> str:
    """Its type as a name, which can be saved."""
    return str(tensor.dtype).removeprefix("torch.")


def scalar_precision() -> str:
    """The type in which torch.optim keeps numbers of its state by default."""
    return "float64" if torch.get_default_dtype() == torch.float64 else "float32"


def _constant(value: Any) -> Any:
    """A setting as a plain number; torch.optim allows a tensor."""
    return value.item() if isinstance(value, Tensor) else value


def _is_differentiable(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
