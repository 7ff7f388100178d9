"""The two partial gradients of the outer loss, which every method starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .._autograd import add, gradients, leaves
from .._types import NamedTensors
from ..batches import Batches
from ._base import Point


@dataclass(frozen=True)
class OuterGradients:
    """F and its two partial gradients; None for parameters it does not use."""

    loss: Tensor
    inner: tuple[Tensor | None, ...]
    outer: tuple[Tensor | None, ...]


def outer_gradients(point: Point, inner: Sequence[Tensor], buffers: NamedTensors) -> OuterGradients:
    """F(w, λ) with F_w and F_λ at the given w.

    Raises:
        IndependentLossError: the outer loss does not depend on the inner parameters.
    """
    w, outer = leaves(inner), leaves(point.outer.values())

    def differentiate(loss: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        return loss.detach(), gradients(loss, (*w, *outer))

    total: Tensor | None = None
    grads: tuple[Tensor | None, ...] = (None,) * (len(w) + len(outer))
    for batch, weight in point.val.flat():  # the graph of one batch at a time
        (loss, found), buffers = point.run("outer", w, outer, buffers, Batches((batch,)), differentiate)
        if weight != 1:
            loss, found = loss * weight, tuple(None if one is None else one * weight for one in found)
        total = loss if total is None else total + loss
        grads = add(grads, found)
    assert total is not None  # Batches hold at least one
    point.check_inner_gradient(grads[: len(w)], "outer")
    return OuterGradients(total, grads[: len(w)], grads[len(w) :])
