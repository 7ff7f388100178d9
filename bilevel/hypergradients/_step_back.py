"""One step of the adjoint walk: the adjoint after an inner step is pulled back to the adjoint before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._autograd import add, gradients, leaves, pull_back
from .._types import MaybeTensors, Tensors
from ..batches import Batches
from ..errors import DoubleBackwardError, NoForwardModeError
from ..optim import UpdateRule
from ..optim._base import State, differentiable_leaves, replace_leaves
from ._base import Point
from ._micro_batches import accumulated
from ._products import Products, SecondOrder, double_backward, forward_over_reverse
from ._trajectory import Snapshot


@dataclass(frozen=True)
class Adjoint:
    """∂F/∂w and ∂F/∂(optimiser state) at one step; None is zero."""

    inner: tuple[Tensor | None, ...]
    state: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class StepBack:
    """The loss before a step, the step's share of dF/dλ, and the adjoint before it (empty at the first)."""

    loss: Tensor
    outer: tuple[Tensor | None, ...]
    adjoint: Adjoint


class StepsBack:
    """Pulls adjoints back over inner steps.

    A step on a single batch by double backward is one graph through gradient and update, pulled back at once.
    Otherwise the adjoint is pulled back over the update alone, which gives the cotangent of the gradient, and
    then over the gradient, one batch after the other.

    Args:
        point: where the hypergradient is asked for.
        rule: the optimiser step.
        outer: the outer parameters, as leaves.
        products: how to take second-order products.

    Attributes:
        notes: what the caller should know, such as a fall-back to double backward.
    """

    def __init__(self, point: Point, rule: UpdateRule, outer: Tensors, products: Products) -> None:
        self._point = point
        self._rule = rule
        self._outer = outer
        self._forward = products != "double-backward"
        self._may_fall_back = products == "auto"
        self._checked = False
        self.notes: tuple[str, ...] = ()

    def in_one_graph(self, batches: Batches) -> bool:
        """Whether a step on these batches is taken with its graph and pulled back at once."""
        return not self._forward and sum(1 for _ in batches.flat()) == 1

    def __call__(
        self, at: Snapshot, batches: Batches, used: tuple[bool, ...], after: Adjoint, *, first: bool
    ) -> StepBack:
        """Pull the adjoint after the step from `at` back over it.

        Args:
            at: what the step starts from.
            batches: what the step looks at.
            used: which inner parameters had a gradient when the step was taken.
            after: the adjoint after the step.
            first: whether this is the first step, before which no adjoint is needed.

        Raises:
            NoForwardModeError: an operator has no forward mode, and there is no falling back.
            DoubleBackwardError: an operator cannot be differentiated twice.
        """
        if self.in_one_graph(batches):
            at.rng.restore()
            return self.through_graph(at, batches, lambda *_: after, first=first)
        return self._through_update(at, batches, used, after, first=first)

    def through_graph(
        self,
        at: Snapshot,
        batches: Batches,
        adjoint_after: Callable[[Tensors, State], Adjoint],
        *,
        first: bool,
    ) -> StepBack:
        """Take the step from `at`, the generators standing where it wants them, with its graph.

        `adjoint_after` gives the adjoint after the step, from the parameters and the state after it. It is
        called while the step's tensors stand in the modules. One pass of double backward gives the product
        with the update's Jacobian, the Hessian-vector product and the mixed product together.
        """
        point, rule, outer = self._point, self._rule, self._outer
        w = leaves(at.inner)
        state = replace_leaves(at.state, lambda leaf: leaf.detach().requires_grad_())
        before = () if first else (*w, *differentiable_leaves(state))
        check = self._first_time()

        def differentiate(loss: Tensor) -> StepBack:
            grads = gradients(loss, w, create_graph=True)
            point.check_inner_gradient(grads, twice=check)
            new, new_state = rule.update(w, grads, state, point.named_outer(outer))
            after = adjoint_after(new, new_state)
            found = pull_back(
                (*new, *differentiable_leaves(new_state)), (*outer, *before), (*after.inner, *after.state)
            )
            cut = len(outer), len(outer) + len(w)
            return StepBack(loss.detach(), found[: cut[0]], Adjoint(found[cut[0] : cut[1]], found[cut[1] :]))

        return point.run("inner", w, outer, at.buffers, batches, differentiate)[0]

    def _through_update(
        self, at: Snapshot, batches: Batches, used: tuple[bool, ...], after: Adjoint, *, first: bool
    ) -> StepBack:
        """Over the update with the gradient as a leaf, then over the gradient."""
        values = self._stand_ins(at, used) if self._rule.linear else self._gradient(at, batches)
        grads = tuple(None if value is None else value.detach().requires_grad_() for value in values)
        present = [grad for grad in grads if grad is not None]
        w, outer = leaves(at.inner), self._outer
        state = replace_leaves(at.state, lambda leaf: leaf.detach().requires_grad_())
        before = () if first else (*w, *differentiable_leaves(state))
        new, new_state = self._rule.update(w, grads, state, self._point.named_outer(outer))
        pulled = pull_back(
            (*new, *differentiable_leaves(new_state)),
            (*present, *outer, *before),
            (*after.inner, *after.state),
        )
        del new, new_state
        found = iter(pulled)
        cotangent = tuple(None if grad is None else next(found) for grad in grads)
        outer_share = tuple(next(found) for _ in outer)
        direct = tuple(next(found) for _ in (() if first else w))
        products = self._products(at, batches, cotangent, mixed_only=first)
        inner = () if first else add(direct, products.inner)
        return StepBack(products.loss, add(outer_share, products.outer), Adjoint(inner, tuple(found)))

    def _products(
        self, at: Snapshot, batches: Batches, cotangent: MaybeTensors, *, mixed_only: bool
    ) -> SecondOrder:
        lacking: NoForwardModeError | None = None
        check = self._first_time()
        if self._forward:
            try:
                return forward_over_reverse(
                    self._point, self._outer, at, batches, cotangent, mixed_only=mixed_only, check=check
                )
            except NoForwardModeError as error:
                if not self._may_fall_back:
                    raise
                lacking = error
                self._forward = False
                self.notes = (f"products by double backward: {error.found}",)
        try:
            return double_backward(
                self._point,
                self._outer,
                at,
                batches,
                cotangent,
                mixed_only=mixed_only,
                check=check,
            )
        except DoubleBackwardError as error:
            raise error from lacking

    def _first_time(self) -> bool:
        """To look for operators that cannot be differentiated twice, once a walk is enough."""
        first, self._checked = not self._checked, True
        return first

    def _stand_ins(self, at: Snapshot, used: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
        """Gradients whose values a linear rule's adjoint does not ask for."""
        return tuple(torch.zeros_like(one) if use else None for one, use in zip(at.inner, used, strict=True))

    def _gradient(self, at: Snapshot, batches: Batches) -> tuple[Tensor | None, ...]:
        w = leaves(at.inner)
        at.rng.restore()
        return accumulated(
            self._point,
            "inner",
            w,
            leaves(self._point.outer.values()),
            at.buffers,
            batches,
            lambda loss: gradients(loss, w),
        )[1]
