"""The optimiser's own preconditioner in the place of the inverse Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .._autograd import add, detached, leaves, pull_back, subtract
from .._numbers import check_numbers
from .._rng import RngState
from .._types import MaybeTensors
from ..errors import OptionError
from ..optim import UpdateRule
from ._base import HypergradientMethod, Point
from ._mixed import exact_mixed, finite_difference_mixed, inner_gradients, norm
from ._outer import OuterGradients, outer_gradients
from ._result import Hypergradient


@dataclass(frozen=True)
class SAMA(HypergradientMethod):
    """F_λ − G_λw D F_w at the live parameters, D = −(∂w_new/∂g)ᵀ (Choe et al. 2023, "Making scalable
    meta learning practical", section 3).

    D is how the inner optimiser's step, with its state, answers to the gradient g = G_w: the learning rate
    for SGD, a diagonal preconditioner for Adam (whose very first step hardly answers to the length of g, so
    D is nearly 0 there). The hypergradient is that of one step, `Unrolled(1)`, where F_w is taken before the
    step: an error of O(learning rate) against that, and the bias of the one step, which forgets all earlier
    ones, so it is smaller than dF/dλ where the inner problem is slow. With finite differences, first
    derivatives of the losses only, as in the paper, and a further error of O(eps²). Several batches are one
    step on their mean.

    Args:
        mixed: `"finite-difference"`, from two more gradients of the inner loss, or `"exact"`, by double
            backward.
        eps: how far w is shifted for finite differences, in its own Euclidean norm.

    Raises:
        OptionError: an argument is out of range.
    """

    mixed: Literal["finite-difference", "exact"] = "finite-difference"
    eps: float = 0.01

    uses_optimizer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_numbers("SAMA", real={"eps": self.eps})
        if self.mixed not in ("finite-difference", "exact"):
            raise OptionError(
                "unknown choice",
                where="SAMA(mixed)",
                found=repr(self.mixed),
                expected="'finite-difference' or 'exact'",
            )
        if not self.eps > 0:
            raise OptionError("not positive", where="SAMA(eps)", found=self.eps, expected="> 0")

    def __call__(self, point: Point) -> Hypergradient:
        """The hypergradient at `point`."""
        rule = point.rule
        assert rule is not None  # `uses_optimizer`
        final = outer_gradients(point, tuple(point.inner.values()), point.buffers)
        if self.mixed == "exact":
            answered: list[_Answer] = []

            def vector(grads: MaybeTensors) -> MaybeTensors:
                answered.append(_answer(point, rule, grads, final))
                return answered[0].vector

            product = exact_mixed(point, vector)
            loss, length, mixed, answer = product.loss, product.norm, product.outer, answered[0]
        else:
            rng = RngState.capture(point.devices)
            here = inner_gradients(point, tuple(point.inner.values()))
            answer = _answer(point, rule, here.inner, final)
            mixed = finite_difference_mixed(point, answer.vector, self.eps, rng)
            loss, length = here.loss, norm(here.inner)
        return point.answer(
            subtract(add(final.outer, answer.outer), mixed),
            outer_loss=final.loss,
            inner_losses=torch.stack([loss]),
            inner_gradient_norm=length,
        )


@dataclass(frozen=True)
class _Answer:
    """D F_w, and what a rule that reads λ (a learned learning rate) adds to dF/dλ by itself."""

    vector: tuple[Tensor | None, ...]
    outer: tuple[Tensor | None, ...]


def _answer(point: Point, rule: UpdateRule, grads: MaybeTensors, final: OuterGradients) -> _Answer:
    inner = tuple(point.inner.values())
    given = tuple(None if grad is None else grad.detach().requires_grad_() for grad in grads)
    used = [one for one in given if one is not None]
    outer = leaves(point.outer.values())
    new, _ = rule.update(detached(inner), given, rule.init(inner), point.named_outer(outer))
    found = pull_back(new, (*used, *outer), final.inner)
    slopes = iter(found[: len(used)])
    vector = [None if one is None else next(slopes) for one in given]
    return _Answer(tuple(None if one is None else -one for one in vector), found[len(used) :])
