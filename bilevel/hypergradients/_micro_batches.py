"""A loss averaged over several batches, differentiated with the graph of one of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor

from .._autograd import add
from .._types import NamedTensors
from ..batches import Batches
from ._base import Point

Found: TypeAlias = tuple[Tensor, tuple[Tensor | None, ...], NamedTensors]
"""A loss, some of its derivatives (None is zero), and the buffers after it."""


def summed(
    batches: Batches, buffers: NamedTensors, one: Callable[[Batches, float, NamedTensors], Found]
) -> Found:
    """What `one` finds for each single batch with its weight, added up; buffers go on from batch to batch."""
    total: Tensor | None = None
    found: tuple[Tensor | None, ...] = ()
    for batch, weight in batches.flat():
        loss, part, buffers = one(Batches((batch,)), weight, buffers)
        total, found = (loss, part) if total is None else (total + loss, add(found, part))
    assert total is not None  # Batches hold at least one
    return total, found, buffers


def accumulated(
    point: Point,
    level: str,
    inner: Sequence[Tensor],
    outer: Sequence[Tensor],
    buffers: NamedTensors,
    batches: Batches,
    differentiate: Callable[[Tensor], tuple[Tensor | None, ...]],
) -> Found:
    """The (weighted) mean of the loss over the batches, its derivatives, and the buffers after the last one.

    Derivatives of a mean are means of derivatives, so the graph of one batch is gone when the next one is
    looked at. Buffers and random numbers go on from batch to batch, as in training.

    Args:
        point: where the hypergradient is asked for.
        level: `"inner"` or `"outer"`.
        inner: w.
        outer: λ.
        buffers: what the first batch starts from.
        batches: what the loss looks at.
        differentiate: derivatives of a loss, linear in it; called while its tensors stand in the modules.
    """

    def one(batch: Batches, weight: float, before: NamedTensors) -> Found:
        def then(loss: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            share = loss if weight == 1 else loss * weight
            return share.detach(), differentiate(share)

        (loss, part), after = point.run(level, inner, outer, before, batch, then)
        return loss, part, after

    return summed(batches, buffers, one)
