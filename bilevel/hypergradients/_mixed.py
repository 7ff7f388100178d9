"""The inner gradient, and the mixed product G_λw v exactly or by finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._autograd import gradients, leaves, pull_back
from .._rng import RngState
from .._types import MaybeTensors, NamedTensors, Tensors
from ._base import Point
from ._micro_batches import accumulated


@dataclass(frozen=True)
class InnerGradients:
    """G with its two partial gradients, None for parameters it does not use, and the buffers after it."""

    loss: Tensor
    inner: tuple[Tensor | None, ...]
    outer: tuple[Tensor | None, ...]
    buffers: NamedTensors


def inner_gradients(point: Point, inner: Sequence[Tensor], *, rng: RngState | None = None) -> InnerGradients:
    """G_w and G_λ, the mean over all training batches, at the given w, from the live buffers.

    Args:
        point: where the hypergradient is asked for.
        inner: w.
        rng: what the generators start from, so that several evaluations see the same dropout masks.

    Raises:
        IndependentLossError: the inner loss does not depend on the inner parameters.
    """
    if rng is not None:
        rng.restore()
    w, outer = leaves(inner), leaves(point.outer.values())

    loss, found, buffers = accumulated(
        point, "inner", w, outer, point.buffers, point.train, lambda loss: gradients(loss, (*w, *outer))
    )
    point.check_inner_gradient(found[: len(w)])
    return InnerGradients(loss, found[: len(w)], found[len(w) :], buffers)


@dataclass(frozen=True)
class MixedProduct:
    """G and ‖G_w‖ at the live parameters, and Σ v·∂G_w/∂λ; None is zero."""

    loss: Tensor
    norm: Tensor
    outer: tuple[Tensor | None, ...]


def exact_mixed(point: Point, vector: Callable[[MaybeTensors], MaybeTensors]) -> MixedProduct:
    """G_λw v by double backward, where v = `vector`(G_w)."""
    w, outer = leaves(point.inner.values()), leaves(point.outer.values())

    def differentiate(loss: Tensor) -> MixedProduct:
        grads = gradients(loss, w, create_graph=True)
        point.check_inner_gradient(grads, twice=True)
        fixed = tuple(None if grad is None else grad.detach() for grad in grads)
        return MixedProduct(loss.detach(), norm(fixed), pull_back(grads, outer, vector(fixed)))

    return point.run("inner", w, outer, point.buffers, point.train, differentiate)[0]


def finite_difference_mixed(
    point: Point, vector: MaybeTensors, eps: float, rng: RngState
) -> tuple[Tensor | None, ...]:
    """(G_λ(w + εv) − G_λ(w − εv)) / 2ε with ε = eps/‖v‖: wrong by O(eps²) and by rounding over eps.

    Args:
        point: where the hypergradient is asked for.
        vector: v, one for each inner parameter, None being zero.
        eps: the length of the shift of w.
        rng: what the generators start from in both evaluations.
    """
    length = norm(vector)
    if not float(length) > 0:  # zero, where there is nothing to shift, or NaN, which is passed on
        return tuple(one * length.to(one) for one in point.outer.values())
    scale = eps / length
    sides = []
    for sign in (1, -1):
        shifted: Tensors = tuple(
            one if change is None else one + (sign * scale).to(one) * change
            for one, change in zip(point.inner.values(), vector, strict=True)
        )
        sides.append(inner_gradients(point, shifted, rng=rng).outer)
    return tuple(
        None if up is None or down is None else (up - down) / (2 * scale).to(up)
        for up, down in zip(*sides, strict=True)
    )


def norm(tensors: MaybeTensors) -> Tensor:
    """The Euclidean norm over all tensors, None being zero."""
    return torch.nn.utils.get_total_norm([one for one in tensors if one is not None])


def scaled(tensors: MaybeTensors, factor: float) -> tuple[Tensor | None, ...]:
    """Each tensor times a number."""
    return tuple(None if one is None else factor * one for one in tensors)
