"""The gradient of the inner loss on the live modules, one micro-batch after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._autograd import add, gradients
from .batches import Batches
from .problem import Problem


def live_gradient(
    problem: Problem, batches: Batches, parameters: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The (weighted) mean loss over the batches and its gradient, with the graph of one batch at a time."""

    def differentiate(loss: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        return loss.detach(), gradients(loss, parameters)

    total: Tensor | None = None
    grads: tuple[Tensor | None, ...] = (None,) * len(parameters)
    with torch.enable_grad():
        for batch, weight in batches.flat():
            loss, found = problem.live("inner", Batches((batch,)), differentiate)
            if weight != 1:
                loss, found = loss * weight, tuple(None if one is None else one * weight for one in found)
            total = loss if total is None else total + loss
            grads = add(grads, found)
    assert total is not None  # Batches hold at least one
    return total, grads
