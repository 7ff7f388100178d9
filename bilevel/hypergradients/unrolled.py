"""Exact hypergradients through the inner optimiser's steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from .._numbers import check_numbers
from ..errors import OptionError
from ._adjoint import adjoint_unroll
from ._base import HypergradientMethod, Point
from ._graph import graph_unroll
from ._products import Products
from ._result import Hypergradient
from ._trajectory import Storage


@dataclass(frozen=True)
class Unrolled(HypergradientMethod):
    """dF(w_T(λ), λ)/dλ, where w_T is `steps` steps of the inner optimiser from the live parameters and state.

    Both modes are exact and agree to rounding. `"adjoint"` keeps the parameters, the optimiser state (SGD
    needs none) and the buffers of each step and rebuilds one step's graph at a time: the memory of graphs
    does not grow with `steps`, at the price of a second forward pass per step. A step that is the mean over
    several batches (`Batches`, micro-batches) has the graph of one of them at a time. `"graph"` keeps one
    graph through all steps; modules under activation checkpointing do not work there, because their forward
    would run again after the step's parameters are gone.

    Buffers evolve along the unroll as in training and count as constants in the derivative. The derivative
    of an Adam-like update at an entry whose gradients were all exactly 0 is taken as 0.

    Args:
        steps: T ≥ 1, the number of inner steps.
        truncate: differentiate through the last so many steps only, the point reached before them being a
            constant (Shaban et al. 2019); None for all.
        mode: `"adjoint"` or `"graph"`.
        trajectory: where `"adjoint"` keeps the steps: `"memory"`, beside the parameters; `"cpu"`, in the
            memory of the CPU; `"checkpoints"`, about every √T-th step only, the steps between being taken
            again on the way back, one more gradient a step. The answer is the same bit for bit.
        products: how `"adjoint"` takes the second-order products of a step. `"double-backward"`
            differentiates the gradient. `"forward-over-reverse"` takes the gradient over dual numbers: no
            graph of a gradient is built, the first step costs little more than a forward pass, and an
            optimiser that is not linear in the gradient (all but SGD) needs one more gradient a step.
            `"auto"` does the latter until an operator turns out to have no forward mode, and from there
            walks on by double backward, which `Hypergradient.notes` then says. Forward mode takes second
            derivatives to be symmetric: a hook or a custom autograd.Function that changes gradients is
            differentiated rightly by double backward only.

    Raises:
        OptionError: an argument is out of range.
    """

    steps: int
    truncate: int | None = None
    mode: Literal["adjoint", "graph"] = "adjoint"
    trajectory: Storage = "memory"
    products: Products = "double-backward"

    uses_optimizer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_numbers("Unrolled", whole={"steps": self.steps})
        if self.truncate is not None:
            check_numbers("Unrolled", whole={"truncate": self.truncate})
        if self.truncate is not None and not 1 <= self.truncate <= self.steps:
            raise OptionError(
                "out of range",
                where="Unrolled(truncate)",
                found=self.truncate,
                expected=f"None, or 1 to steps = {self.steps}",
            )
        if self.mode not in ("adjoint", "graph"):
            raise OptionError(
                "unknown mode", where="Unrolled(mode)", found=repr(self.mode), expected="'adjoint' or 'graph'"
            )
        if self.trajectory not in get_args(Storage):
            raise OptionError(
                "unknown place",
                where="Unrolled(trajectory)",
                found=repr(self.trajectory),
                expected="'memory', 'cpu' or 'checkpoints'",
            )
        if self.products not in get_args(Products):
            raise OptionError(
                "unknown way",
                where="Unrolled(products)",
                found=repr(self.products),
                expected="'double-backward', 'forward-over-reverse' or 'auto'",
            )
        if self.mode == "graph" and self.trajectory != "memory":
            raise OptionError(
                "the graph mode keeps a graph, no trajectory",
                where="Unrolled(trajectory)",
                found=repr(self.trajectory),
                fix="use mode='adjoint'",
            )
        if self.mode == "graph" and self.products != "double-backward":
            raise OptionError(
                "the graph mode differentiates its one graph backwards",
                where="Unrolled(products)",
                found=repr(self.products),
                fix="use mode='adjoint'",
            )

    @property
    def unrolled_steps(self) -> int:
        """`steps`; see `HypergradientMethod.unrolled_steps`."""
        return self.steps

    def __call__(self, point: Point) -> Hypergradient:
        """The hypergradient at `point`."""
        assert point.rule is not None  # `uses_optimizer`
        point.train.check_steps(self.steps, f"train, for Unrolled(steps={self.steps})")
        differentiated = self.truncate or self.steps
        if self.mode == "graph":
            return graph_unroll(point, point.rule, self.steps, differentiated)
        return adjoint_unroll(point, point.rule, self.steps, differentiated, self.trajectory, self.products)
