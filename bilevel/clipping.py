"""Gradient clipping, at the live step and, differentiably, at each unrolled one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ._types import MaybeTensors, Tensors
from .errors import OptionError
from .optim import UpdateRule
from .optim._base import State


class Clip(ABC):
    """A differentiable change of all gradients of one level together."""

    @abstractmethod
    def __call__(self, grads: MaybeTensors) -> tuple[Tensor | None, ...]:
        """The clipped gradients; None stays None."""


@dataclass(frozen=True)
class ClipNorm(Clip):
    """g ← g · min(1, max_norm / (‖g‖ + 1e-6)), over all parameters, as torch.nn.utils.clip_grad_norm_.

    Args:
        max_norm: the largest Euclidean norm, > 0.

    Raises:
        OptionError: `max_norm` is not positive.
    """

    max_norm: float

    def __post_init__(self) -> None:
        if (
            isinstance(self.max_norm, bool)
            or not isinstance(self.max_norm, int | float)
            or not self.max_norm > 0
        ):
            raise OptionError("not positive", where="ClipNorm(max_norm)", found=self.max_norm, expected="> 0")

    def __call__(self, grads: MaybeTensors) -> tuple[Tensor | None, ...]:
        """The clipped gradients."""
        present = [grad for grad in grads if grad is not None]
        if not present:
            return tuple(grads)
        device = present[0].device
        norms = torch.stack([torch.linalg.vector_norm(grad).to(device) for grad in present])
        factor = (self.max_norm / (torch.linalg.vector_norm(norms) + 1e-6)).clamp(max=1.0)
        return tuple(None if grad is None else grad * factor.to(grad) for grad in grads)


@dataclass(frozen=True)
class ClipValue(Clip):
    """Each entry of a gradient into [−value, value], as torch.nn.utils.clip_grad_value_ does it.

    Args:
        value: the largest absolute value, > 0.

    Raises:
        OptionError: `value` is not positive.
    """

    value: float

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float) or not self.value > 0:
            raise OptionError("not positive", where="ClipValue(value)", found=self.value, expected="> 0")

    def __call__(self, grads: MaybeTensors) -> tuple[Tensor | None, ...]:
        """The clipped gradients."""
        return tuple(None if grad is None else grad.clamp(-self.value, self.value) for grad in grads)


class ClippedRule(UpdateRule):
    """An update rule that sees clipped gradients.

    Args:
        rule: what takes the step.
        clip: how to clip.
    """

    def __init__(self, rule: UpdateRule, clip: Clip) -> None:
        self._rule = rule
        self._clip = clip

    def init(self, params: Tensors) -> State:
        """The state of the rule."""
        return self._rule.init(params)

    def update(
        self, params: Tensors, grads: MaybeTensors, state: State, outer: Mapping[str, Tensor]
    ) -> tuple[Tensors, State]:
        """One step; see `UpdateRule.update`."""
        return self._rule.update(params, self._clip(grads), state, outer)
