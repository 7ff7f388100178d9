"""Reverse accumulation through the inner steps, one step's graph at a time.

With zₜ = (wₜ, optimiser state) and zₜ₊₁ = Φₜ(zₜ, λ), the adjoint a_T = ∂F/∂z_T, aₜ = (∂Φₜ/∂zₜ)ᵀ aₜ₊₁ gives
dF/dλ = F_λ + Σₜ (∂Φₜ/∂λ)ᵀ aₜ₊₁. Each product needs the graph of its own step only: the step is taken again
from its snapshot, with the same buffers and random numbers. (Maclaurin et al. 2015; Franceschi et al. 2017,
algorithm 1; Shaban et al. 2019 for the truncation.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._autograd import add, detached, gradients, leaves, pull_back
from .._rng import RngState
from .._types import Tensors
from ..batches import Batches
from ..optim import UpdateRule
from ..optim._base import State, differentiable_leaves, replace_leaves
from ._base import Point
from ._outer import OuterGradients, outer_gradients
from ._result import Hypergradient
from ._trajectory import Snapshot, Storage, trajectory


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


def adjoint_unroll(
    point: Point, rule: UpdateRule, steps: int, differentiated: int, storage: Storage = "memory"
) -> Hypergradient:
    """Take `steps` inner steps without a graph, then walk back over the last `differentiated` of them.

    The last step is taken with its graph at once, which is still there when the walk back begins.
    """

    def again(at: Snapshot, step: int) -> Snapshot:
        return advance(point, rule, at, point.train.at(step))[1]

    first = steps - differentiated
    kept = trajectory(storage, rule, first, differentiated - 1, again)
    now = start(point, rule)
    losses = []
    for step in range(steps - 1):
        if step >= first:
            kept.push(now)
        loss, now = advance(point, rule, now, point.train.at(step))
        losses.append(loss)

    outer = leaves(point.outer.values())
    final: list[OuterGradients] = []

    def turn(inner: Tensors, state: State) -> Adjoint:
        final.append(outer_gradients(point, detached(inner), point.problem.buffers()))
        return Adjoint(final[0].inner, (None,) * len(differentiable_leaves(state)))

    back = step_back(
        point, rule, outer, now, point.train.at(steps - 1), turn, first=first == steps - 1, check=True
    )
    losses.append(back.loss)
    outer_loss, total = final[0].loss, add(final[0].outer, back.outer)
    del now
    final.clear()
    for step, snapshot in zip(range(steps - 2, first - 1, -1), kept.backwards(), strict=True):
        snapshot.rng.restore()
        adjoint = back.adjoint
        back = step_back(
            point,
            rule,
            outer,
            snapshot,
            point.train.at(step),
            lambda *_, known=adjoint: known,
            first=step == first,
            check=False,
        )
        total = add(total, back.outer)
    return point.answer(total, outer_loss=outer_loss, inner_losses=torch.stack(losses))


def start(point: Point, rule: UpdateRule) -> Snapshot:
    """The snapshot of the live problem."""
    inner = tuple(point.inner.values())
    return Snapshot(inner, rule.init(inner), point.buffers, RngState.capture(point.devices))


def advance(point: Point, rule: UpdateRule, at: Snapshot, batch: Batches) -> tuple[Tensor, Snapshot]:
    """One inner step without a graph: the loss before it, and the snapshot after it."""
    w = leaves(at.inner)

    def update(loss: Tensor) -> tuple[Tensor, Tensors, object]:
        grads = gradients(loss, w)
        point.check_inner_gradient(grads)
        with torch.no_grad():
            new, state = rule.update(at.inner, grads, at.state, point.outer)
        return loss.detach(), new, state

    (loss, inner, state), buffers = point.run("inner", w, point.outer.values(), at.buffers, batch, update)
    return loss, Snapshot(detached(inner), state, buffers, RngState.capture(point.devices))


def step_back(
    point: Point,
    rule: UpdateRule,
    outer: Tensors,
    at: Snapshot,
    batch: Batches,
    adjoint_after: Callable[[Tensors, State], Adjoint],
    *,
    first: bool,
    check: bool,
) -> StepBack:
    """Take the step from `at` with its graph, and pull the adjoint after it back over it.

    One pass of double backward gives the product with the update's Jacobian, the Hessian-vector product and
    the mixed product together.

    Args:
        point: where the hypergradient is asked for.
        rule: the optimiser step.
        outer: the outer parameters, as leaves.
        at: what the step starts from; the generators stand where it wants them.
        batch: what the step looks at.
        adjoint_after: gives the adjoint after the step, from the parameters and the state after it. It is
            called while the step's tensors stand in the modules.
        first: whether this is the first step, before which no adjoint is needed.
        check: whether to look for operators that cannot be differentiated twice; once a walk is enough.
    """
    w = leaves(at.inner)
    state = replace_leaves(at.state, lambda leaf: leaf.detach().requires_grad_())
    before = () if first else (*w, *differentiable_leaves(state))
    named_outer = point.named_outer(outer)

    def differentiate(loss: Tensor) -> StepBack:
        grads = gradients(loss, w, create_graph=True)
        point.check_inner_gradient(grads, twice=check)
        new, new_state = rule.update(w, grads, state, named_outer)
        after = adjoint_after(new, new_state)
        found = pull_back(
            (*new, *differentiable_leaves(new_state)), (*outer, *before), (*after.inner, *after.state)
        )
        cut = len(outer), len(outer) + len(w)
        return StepBack(loss.detach(), found[: cut[0]], Adjoint(found[cut[0] : cut[1]], found[cut[1] :]))

    answer, _ = point.run("inner", w, outer, at.buffers, batch, differentiate)
    return answer
