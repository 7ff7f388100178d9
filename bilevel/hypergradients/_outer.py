"""The two partial gradients of the outer loss, which every method starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .._autograd import gradients, leaves
from .._types import NamedTensors
from ._base import Point
from ._micro_batches import accumulated


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
    loss, grads, _ = accumulated(
        point, "outer", w, outer, buffers, point.val, lambda loss: gradients(loss, (*w, *outer))
    )
    point.check_inner_gradient(grads[: len(w)], "outer")
    return OuterGradients(loss, grads[: len(w)], grads[len(w) :])
