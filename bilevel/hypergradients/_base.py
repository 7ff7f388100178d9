"""What a hypergradient method is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from .._autograd import Autocast, check_twice_differentiable
from .._types import MaybeTensors, NamedTensors
from ..batches import Batches
from ..errors import IndependentLossError
from ..optim import UpdateRule
from ..problem import Problem
from ._result import Hypergradient

R = TypeVar("R")


@dataclass(frozen=True)
class Point:
    """Where a hypergradient is asked for: everything a method may look at, none of which it may change.

    Attributes:
        problem: the two losses.
        inner: the inner parameters w, constants.
        outer: the outer parameters λ, constants.
        buffers: the buffers of both modules.
        train: batches of the inner loss.
        val: batches of the outer loss.
        rule: one inner optimiser step; None if the method said that it needs none.
        devices: the accelerators whose random number generators a replay must restore.
        autocast: the caller's autocast, which `run` puts the losses under; around them it is off.
    """

    problem: Problem
    inner: NamedTensors
    outer: NamedTensors
    buffers: NamedTensors
    train: Batches
    val: Batches
    rule: UpdateRule | None
    devices: tuple[torch.device, ...]
    autocast: Autocast

    def named_outer(self, values: Iterable[Tensor]) -> NamedTensors:
        """Give outer parameter values their names."""
        return dict(zip(self.outer, values, strict=True))

    def run(
        self,
        level: str,
        inner: Iterable[Tensor],
        outer: Iterable[Tensor],
        buffers: NamedTensors,
        batch: Batches,
        then: Callable[[Tensor], R],
    ) -> tuple[R, NamedTensors]:
        """`Problem.run` for parameter values in the order of `self.inner` and `self.outer`."""
        named = dict(zip(self.inner, inner, strict=True))
        return self.problem.run(level, named, self.named_outer(outer), buffers, batch, then, self.autocast)

    def check_inner_gradient(self, grads: MaybeTensors, level: str = "inner", *, twice: bool = False) -> None:
        """Check the gradient of a loss with respect to the inner parameters.

        Raises:
            IndependentLossError: the loss depends on none of them.
            RuntimeError: `twice` is set and an operator forbids a second derivative.
        """
        if twice:
            check_twice_differentiable(grads, self.outer.values())
        if all(grad is None for grad in grads):
            raise IndependentLossError(
                "the loss does not depend on the inner parameters",
                where=self.problem.describe(level),
                fix="use the `inner` argument inside the loss, without detach() or no_grad()",
            )

    def answer(self, values: MaybeTensors, **report: Any) -> Hypergradient:
        """Name the values; an outer parameter that neither loss uses gets zeros.

        Raises:
            IndependentLossError: no outer parameter is used at all.
        """
        if all(value is None for value in values):
            raise IndependentLossError(
                "neither loss depends on the outer parameters",
                where=f"{self.problem.describe('inner')}, {self.problem.describe('outer')}",
                fix="use the `outer` argument inside the inner loss, without detach() or no_grad()",
            )
        named = {
            name: torch.zeros_like(outer) if value is None else _written_out(value.detach().to(outer))
            for (name, outer), value in zip(self.outer.items(), values, strict=True)
        }
        return Hypergradient(named, **report)


class HypergradientMethod(ABC):
    """A way to compute dF/dλ. A new method is a subclass with this one call, in a file of its own.

    It may draw random numbers and switch nothing back: the caller restores the generators. It works on the
    tensors of the `Point` and never writes to them.
    """

    uses_optimizer: ClassVar[bool] = False
    """Whether `Point.rule` is needed."""

    @property
    def unrolled_steps(self) -> int | None:
        """How many inner optimiser steps, begun at the live parameters, it differentiates through.

        None for a method that looks at one point only.
        """
        return None

    @abstractmethod
    def __call__(self, point: Point) -> Hypergradient:
        """The hypergradient at `point`."""


def _written_out(value: Tensor) -> Tensor:
    """The same numbers, each in its own place: autograd keeps a constant slope once for all entries."""
    return value.contiguous() if 0 in value.stride() else value
