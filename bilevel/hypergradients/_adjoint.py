"""Reverse accumulation through the inner steps, one step's graph at a time.

With zₜ = (wₜ, optimiser state) and zₜ₊₁ = Φₜ(zₜ, λ), the adjoint a_T = ∂F/∂z_T, aₜ = (∂Φₜ/∂zₜ)ᵀ aₜ₊₁ gives
dF/dλ = F_λ + Σₜ (∂Φₜ/∂λ)ᵀ aₜ₊₁. Each product needs the graph of its own step only: the step is taken again
from its snapshot, with the same buffers and random numbers. (Maclaurin et al. 2015; Franceschi et al. 2017,
algorithm 1; Shaban et al. 2019 for the truncation.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._autograd import add, detached, gradients, leaves
from .._rng import RngState
from .._types import MaybeTensors, NamedTensors, Tensors
from ..batches import Batches
from ..optim import UpdateRule
from ..optim._base import State, differentiable_leaves
from ._base import Point
from ._micro_batches import accumulated
from ._outer import OuterGradients, outer_gradients
from ._products import Products
from ._result import Hypergradient
from ._step_back import Adjoint, StepsBack
from ._trajectory import Snapshot, Storage, trajectory


@dataclass(frozen=True)
class Step:
    """A step taken without a graph.

    Attributes:
        loss: the loss before it.
        used: which inner parameters had a gradient.
        after: what the next step starts from.
    """

    loss: Tensor
    used: tuple[bool, ...]
    after: Snapshot


@dataclass(frozen=True)
class Walk:
    """What a walk back over inner steps found.

    Attributes:
        losses: the inner loss before each of the steps.
        outer_loss: the outer loss after them.
        outer: dF/dλ through these steps, and directly.
        adjoint: ∂F/∂(parameters, optimiser state) where the steps begin; empty if it was not asked for.
        notes: what the caller should know.
    """

    losses: list[Tensor]
    outer_loss: Tensor
    outer: tuple[Tensor | None, ...]
    adjoint: Adjoint
    notes: tuple[str, ...]


def adjoint_unroll(
    point: Point, rule: UpdateRule, steps: int, differentiated: int, storage: Storage, products: Products
) -> Hypergradient:
    """Take `steps` inner steps without a graph, then walk back over the last `differentiated` of them."""
    now = start(point, rule)
    losses = []
    for number in range(steps - differentiated):
        step = advance(point, rule, now, point.train.at(number))
        losses.append(step.loss)
        now = step.after
    numbers = range(steps - differentiated, steps)
    walk = walk_back(point, rule, now, numbers, storage, products, to_the_start=False)
    return point.answer(
        walk.outer,
        outer_loss=walk.outer_loss,
        inner_losses=torch.stack(losses + walk.losses),
        notes=walk.notes,
    )


def walk_back(
    point: Point,
    rule: UpdateRule,
    now: Snapshot,
    numbers: range,
    storage: Storage = "memory",
    products: Products = "double-backward",
    *,
    to_the_start: bool,
) -> Walk:
    """Take inner steps without a graph, then walk back over them.

    Where a step can be taken with its graph at once, the last one is, because the walk begins with it.

    Args:
        point: where the hypergradient is asked for.
        rule: the optimiser step.
        now: what the first of the steps starts from, where the generators stand.
        numbers: the numbers of the steps, at least one.
        storage: where to keep the steps.
        products: how to take second-order products.
        to_the_start: whether the adjoint before the first step is asked for.
    """

    def again(at: Snapshot, number: int) -> Snapshot:
        return advance(point, rule, at, point.train.at(number)).after

    def is_last_product(number: int) -> bool:
        return number == numbers[0] and not to_the_start

    outer = leaves(point.outer.values())
    back_over = StepsBack(point, rule, outer, products)
    last = numbers[-1]
    turning = back_over.in_one_graph(point.train.at(last))
    plain = numbers[:-1] if turning else numbers
    kept = trajectory(storage, rule, numbers[0], len(plain), again)
    losses: list[Tensor] = []
    used: list[tuple[bool, ...]] = []
    for number in plain:
        kept.push(now)
        step = advance(point, rule, now, point.train.at(number))
        losses.append(step.loss)
        used.append(step.used)
        now = step.after
        del step

    final: list[OuterGradients] = []

    def turn(inner: Tensors, state: State, buffers: NamedTensors) -> Adjoint:
        final.append(outer_gradients(point, detached(inner), buffers))
        return Adjoint(final[0].inner, (None,) * len(differentiable_leaves(state)))

    total: MaybeTensors = (None,) * len(outer)
    if turning:
        back = back_over.through_graph(
            now,
            point.train.at(last),
            lambda inner, state: turn(inner, state, point.problem.buffers()),
            first=is_last_product(last),
        )
        losses.append(back.loss)
        adjoint, total = back.adjoint, back.outer
    else:
        adjoint = turn(now.inner, now.state, now.buffers)
    outer_loss, total = final[0].loss, add(final[0].outer, total)
    del now
    final.clear()
    for number, snapshot in zip(reversed(plain), kept.backwards(), strict=True):
        back = back_over(snapshot, point.train.at(number), used.pop(), adjoint, first=is_last_product(number))
        adjoint, total = back.adjoint, add(total, back.outer)
    return Walk(losses, outer_loss, total, adjoint, back_over.notes)


def start(point: Point, rule: UpdateRule) -> Snapshot:
    """The snapshot of the live problem."""
    inner = tuple(point.inner.values())
    return Snapshot(inner, rule.init(inner), point.buffers, RngState.capture(point.devices))


def advance(point: Point, rule: UpdateRule, at: Snapshot, batches: Batches) -> Step:
    """One inner step without a graph, the generators standing where it wants them."""
    w = leaves(at.inner)
    outer = leaves(point.outer.values())  # a loss may ask which parameters require a gradient
    loss, grads, buffers = accumulated(
        point, "inner", w, outer, at.buffers, batches, lambda loss: gradients(loss, w)
    )
    point.check_inner_gradient(grads)
    with torch.no_grad():
        inner, state = rule.update(at.inner, grads, at.state, point.outer)
    after = Snapshot(detached(inner), state, buffers, RngState.capture(point.devices))
    return Step(loss, tuple(grad is not None for grad in grads), after)
