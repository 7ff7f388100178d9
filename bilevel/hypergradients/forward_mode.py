"""Exact hypergradients by carrying tangents forward: memory without the number of steps in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .._autograd import add, check_twice_differentiable, detached, gradients, leaves, pull_back
from .._numbers import check_numbers
from .._rng import RngState
from .._types import MaybeTensors, Tensors
from ..batches import Batches
from ..errors import OptionError
from ..optim import UpdateRule
from ..optim._base import State, differentiable_leaves, replace_leaves
from ._adjoint import start, walk_back
from ._base import HypergradientMethod, Point
from ._micro_batches import accumulated
from ._outer import outer_gradients
from ._result import Hypergradient
from ._step_back import Adjoint
from ._trajectory import Snapshot


@dataclass(frozen=True)
class _Tangents:
    """d/dλᵢ of w and of the optimiser state, each with a leading dimension [K] for the coordinates of λ."""

    inner: Tensors
    state: Tensors


@dataclass(frozen=True)
class ForwardMode(HypergradientMethod):
    """dF(w_T(λ), λ)/dλ as `Unrolled(steps)` computes it, by forward accumulation.

    Along each of the K outer coordinates the tangent of the inner parameters and of the optimiser state is
    carried through the steps (Franceschi et al. 2017, algorithm 2; Williams and Zipser 1989). The
    trajectory is not kept: memory is one step's graph and 2K copies of parameters and state (K tangents, K
    snapshots of the last steps), K with `walked_back=0`, whatever the number of steps; time grows with K.
    So it is for few outer parameters, such as cluster weights or a learning rate. Exact, without bias.

    The last few steps are walked back, as `Unrolled` does it, to the adjoint that the tangents before them
    are multiplied with: that is much cheaper than carrying K tangents through them. Up to K steps are all
    walked back, without tangents.

    Each step differentiates the inner gradient once: G_ww ẇ + G_wλ λ̇ is the transposed product of (G_w, G_λ)
    with (ẇ, λ̇), because second derivatives are symmetric, so that the operators of the loss need a double
    backward but no forward mode (a custom autograd.Function whose backward is not its derivative breaks the
    symmetry: use `Unrolled`). All coordinates share one forward pass, hence one dropout mask and one update
    of the buffers. A step over several batches keeps the graph of one of them at a time. Buffers, and zero
    gradients under Adam, are treated as by `Unrolled`.

    Args:
        steps: T ≥ 1, the number of inner steps.
        chunk_size: for how many coordinates derivatives of the loss are vectorised together, None for all. 1,
            a plain loop without vmap, also takes losses with operators that vmap refuses (activation
            checkpointing with dropout) and several processes. The update rule is always vectorised.
        walked_back: how many of the last steps are walked back; None for as many as there are outer
            coordinates. With 0 the tangents go all the way.

    Raises:
        OptionError: an argument is out of range.
    """

    steps: int
    chunk_size: int | None = 1
    walked_back: int | None = None

    uses_optimizer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_numbers("ForwardMode", whole={"steps": self.steps})
        for name, value, least in (
            ("chunk_size", self.chunk_size, 1),
            ("walked_back", self.walked_back, 0),
        ):
            if value is not None:
                check_numbers("ForwardMode", whole={name: value}, least=least)

    @property
    def unrolled_steps(self) -> int:
        """`steps`; see `HypergradientMethod.unrolled_steps`."""
        return self.steps

    def __call__(self, point: Point) -> Hypergradient:
        """The hypergradient at `point`.

        Raises:
            OptionError: `chunk_size` is not 1 and there are several processes.
        """
        assert point.rule is not None  # `uses_optimizer`
        if self.chunk_size != 1 and not point.problem.vectorizes:
            raise OptionError(
                "several processes cannot exchange vectorised derivatives",
                where="ForwardMode(chunk_size)",
                found=self.chunk_size,
                expected=1,
                fix="use ForwardMode(steps, chunk_size=1), or Unrolled",
            )
        point.train.check_steps(self.steps, f"train, for ForwardMode(steps={self.steps})")
        outer = tuple(point.outer.values())
        count = sum(one.numel() for one in outer)
        back = min(self.steps, count if self.walked_back is None else self.walked_back)
        now = start(point, point.rule)
        losses, depends, tangents = [], False, None
        if back < self.steps:
            directions = _unit_directions(outer)
            state = tuple(differentiable_leaves(now.state))
            tangents = _Tangents(_zeros(count, now.inner), _zeros(count, state))
            for step in range(self.steps - back):
                loss, now, tangents, by_loss = self._advance(
                    point, point.rule, now, tangents, directions, point.train.at(step), first=step == 0
                )
                losses.append(loss)
                depends = depends or by_loss
            depends = depends or any(bool(one.any()) for one in tangents.inner)  # through learned settings
            del directions
        if back == 0:
            final = outer_gradients(point, now.inner, now.buffers)
            outer_loss, direct = final.loss, final.outer
            adjoint = Adjoint(final.inner, (None,) * len(differentiable_leaves(now.state)))
        else:
            numbers = range(self.steps - back, self.steps)
            walk = walk_back(point, point.rule, now, numbers, to_the_start=back < self.steps)
            losses += walk.losses
            outer_loss, direct, adjoint = walk.outer_loss, walk.outer, walk.adjoint
        if tangents is not None and depends:
            direct = add(direct, _indirect(outer, tangents, adjoint))
        return point.answer(
            direct,
            outer_loss=outer_loss,
            inner_losses=torch.stack(losses),
        )

    def _advance(
        self,
        point: Point,
        rule: UpdateRule,
        at: Snapshot,
        tangents: _Tangents,
        directions: Tensors,
        batches: Batches,
        *,
        first: bool,
    ) -> tuple[Tensor, Snapshot, _Tangents, bool]:
        """One inner step, the tangents after it, and whether its loss depends on λ.

        Before the first step the tangents of w are zero.
        """
        w, outer = leaves(at.inner), leaves(point.outer.values())
        skipped = len(w) if first else 0
        cotangents = (*tangents.inner, *directions)[skipped:]

        def differentiate(loss: Tensor) -> tuple[Tensor | None, ...]:
            both = gradients(loss, (*w, *outer), create_graph=True)
            if first:
                check_twice_differentiable(both, point.outer.values())
            slopes = self._products(both[skipped:], w, cotangents)
            return (*(None if one is None else one.detach() for one in both), *slopes)

        loss, found, buffers = accumulated(point, "inner", w, outer, at.buffers, batches, differentiate)
        grads, by_outer, slopes = (
            found[: len(w)],
            found[len(w) : len(outer) + len(w)],
            found[len(outer) + len(w) :],
        )
        point.check_inner_gradient(grads)
        with torch.no_grad():
            new, state = rule.update(at.inner, grads, at.state, point.outer)
        after = self._push_update(rule, at, grads, slopes, tangents, point.outer, directions, (new, state))
        # The snapshots of the steps that are walked back restore these generators.
        snapshot = Snapshot(detached(new), state, buffers, RngState.capture(point.devices))
        return loss, snapshot, after, any(one is not None for one in by_outer)

    def _products(
        self, outputs: MaybeTensors, inputs: Tensors, cotangents: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        """Transposed products of the outputs' Jacobian with a batch of cotangents [K, ...]: [K, *input]."""
        pairs = [
            (output, cotangent)
            for output, cotangent in zip(outputs, cotangents, strict=True)
            if output is not None and output.requires_grad
        ]
        count = len(cotangents[0])
        size = min(self.chunk_size or count, count)
        parts: list[tuple[Tensor, ...]] = []
        for begin in range(0, count, size):
            if not pairs:  # the gradient is constant
                break
            found = torch.autograd.grad(
                [output for output, _ in pairs],
                inputs,
                grad_outputs=[
                    cotangent[begin] if size == 1 else cotangent[begin : begin + size]
                    for _, cotangent in pairs
                ],
                retain_graph=begin + size < count,
                allow_unused=True,
                is_grads_batched=size > 1,
            )
            parts.append(
                tuple(
                    _zeros(min(size, count - begin), (one,))[0]
                    if value is None
                    else value.view(-1, *one.shape)
                    if size == 1
                    else value
                    for value, one in zip(found, inputs, strict=True)
                )
            )
        if not parts:
            return _zeros(count, inputs)
        return tuple(torch.cat(one) for one in zip(*parts, strict=True))

    def _push_update(
        self,
        rule: UpdateRule,
        at: Snapshot,
        grads: MaybeTensors,
        slopes: MaybeTensors,
        tangents: _Tangents,
        outer: Mapping[str, Tensor],
        directions: Tensors,
        after: tuple[Tensors, State],
    ) -> _Tangents:
        """The tangents after the optimiser's update, by forward-mode differentiation of the update rule."""
        used = [index for index, grad in enumerate(grads) if grad is not None]
        before = tuple(differentiable_leaves(at.state))

        def update(w: Tensors, given: Tensors, state: Tensors, lam: Tensors) -> Tensors:
            values, following = dict(zip(used, given, strict=True)), iter(state)
            new, new_state = rule.update(
                w,
                tuple(values.get(index) for index in range(len(w))),
                replace_leaves(at.state, lambda _: next(following)),
                dict(zip(outer, lam, strict=True)),
            )
            return (*new, *differentiable_leaves(new_state))

        primals = (at.inner, tuple(one for one in grads if one is not None), before, tuple(outer.values()))

        def push(*along: Tensors) -> Tensors:
            result: Tensors = torch.func.jvp(update, primals, along)[1]
            return result

        given = tuple(slope for index, slope in enumerate(slopes) if index in used and slope is not None)
        moved = (tangents.inner, given, tangents.state, directions)
        found = torch.vmap(push)(*moved)
        inner, state = found[: len(at.inner)], found[len(at.inner) :]
        return _Tangents(
            _no_nan_where_zero(rule, at, grads, outer, tangents.inner, inner),
            tuple(
                one.masked_fill(one.isnan() & leaf.isfinite(), 0)
                for one, leaf in zip(state, differentiable_leaves(after[1]), strict=True)
            ),
        )


def _no_nan_where_zero(
    rule: UpdateRule,
    at: Snapshot,
    grads: MaybeTensors,
    outer: Mapping[str, Tensor],
    before: Tensors,
    after: Tensors,
) -> Tensors:
    """Where a square root at exactly 0 made a tangent NaN, the update counts as constant.

    It is the convention of the adjoint walk for rules that are not ours (`TorchoptRule`): such an entry moves
    with its own parameter only, through weight decay for instance.
    """
    bad = [
        None if grad is None else one.isnan() & (grad == 0) for one, grad in zip(after, grads, strict=True)
    ]
    if not any(mask is not None and bool(mask.any()) for mask in bad):
        return after
    w = leaves(at.inner)
    new, _ = rule.update(w, grads, at.state, outer)
    slopes = pull_back(new, w, [torch.ones_like(one) for one in w])
    return tuple(
        one
        if mask is None
        else torch.where(mask, torch.zeros_like(old) if slope is None else slope * old, one)
        for one, old, slope, mask in zip(after, before, slopes, bad, strict=True)
    )


def _indirect(outer: Tensors, tangents: _Tangents, adjoint: Adjoint) -> tuple[Tensor, ...]:
    """dF/dλ through parameters and optimiser state: their tangents times the adjoint."""
    pairs = zip((*tangents.inner, *tangents.state), (*adjoint.inner, *adjoint.state), strict=False)
    shares = [
        tangent.reshape(len(tangent), -1) @ slope.flatten() for tangent, slope in pairs if slope is not None
    ]
    slopes = sum(shares[1:], shares[0]) if shares else outer[0].new_zeros(sum(one.numel() for one in outer))
    return tuple(
        part.view(one.shape).to(one)
        for part, one in zip(slopes.split([one.numel() for one in outer]), outer, strict=True)
    )


def _unit_directions(outer: Tensors) -> Tensors:
    """Every unit direction of λ: for each tensor of λ a batch [K, *shape], K the number of coordinates."""
    sizes = [one.numel() for one in outer]
    count = sum(sizes)
    found, begin = [], 0
    for one, size in zip(outer, sizes, strict=True):
        batch = one.new_zeros(count, size)
        batch[begin : begin + size].fill_diagonal_(1)
        found.append(batch.view(count, *one.shape))
        begin += size
    return tuple(found)


def _zeros(count: int, like: Tensors) -> Tensors:
    return tuple(one.new_zeros(count, *one.shape) for one in like)
