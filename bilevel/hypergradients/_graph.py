"""The classical unroll: one autograd graph through all inner steps, whose memory grows with their number."""

from __future__ import annotations

import torch
from torch import Tensor

from .._autograd import gradients, leaves
from .._types import Tensors
from ..errors import explained
from ..optim import UpdateRule
from ..optim._base import State
from ._adjoint import advance, start
from ._base import Point
from ._result import Hypergradient


def graph_unroll(point: Point, rule: UpdateRule, steps: int, differentiated: int) -> Hypergradient:
    """Take `steps` inner steps, the last `differentiated` of them with a graph, and backpropagate."""
    losses = []
    now = start(point, rule)
    for step in range(steps - differentiated):
        taken = advance(point, rule, now, point.train.at(step))
        losses.append(taken.loss)
        now = taken.after

    outer = leaves(point.outer.values())
    named_outer = point.named_outer(outer)
    inner, state, buffers = leaves(now.inner), now.state, now.buffers
    for step in range(steps - differentiated, steps):

        def update(
            loss: Tensor,
            w: Tensors = inner,
            before: State = state,
            first: bool = step == steps - differentiated,
        ) -> tuple[Tensor, Tensors, State]:
            grads = gradients(loss, w, create_graph=True)
            point.check_inner_gradient(grads, twice=first)
            return loss.detach(), *rule.update(w, grads, before, named_outer)

        (loss, inner, state), buffers = point.run(
            "inner", inner, outer, buffers, point.train.at(step), update
        )
        losses.append(loss)

    def differentiate(loss: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        # What the inner loss used and cannot be differentiated twice is met only here.
        with explained(f"{point.problem.describe('inner')} or {point.problem.describe('outer')}"):
            return loss.detach(), gradients(loss, (*outer, *inner))

    (loss, found), _ = point.run("outer", inner, outer, buffers, point.val, differentiate)
    point.check_inner_gradient(found[len(outer) :], "outer")
    return point.answer(found[: len(outer)], outer_loss=loss, inner_losses=torch.stack(losses))
