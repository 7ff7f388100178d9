"""G_ww v and G_λw v, the Hessian-vector and the mixed product of the inner loss, in two ways.

Double backward: the gradient with its graph, pulled back with v. Forward over reverse: one pass of loss and
gradient over the dual numbers w + εv, whose gradient has the products as its tangents (Pearlmutter 1994;
"mixed mode" in Kemaev et al. 2025). The two agree because second derivatives are symmetric.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from .._autograd import check_twice_differentiable, gradients, graph, leaves, pull_back
from .._types import MaybeTensors, NamedTensors, Tensors
from ..batches import Batches
from ..errors import NoForwardModeError
from ._base import Point
from ._micro_batches import Found, accumulated, summed
from ._trajectory import Snapshot

Products: TypeAlias = Literal["double-backward", "forward-over-reverse", "auto"]


@dataclass(frozen=True)
class SecondOrder:
    """G, G_ww v (empty if it was not asked for) and G_λw v; None is zero."""

    loss: Tensor
    inner: tuple[Tensor | None, ...]
    outer: tuple[Tensor | None, ...]


def double_backward(
    point: Point,
    outer: Tensors,
    at: Snapshot,
    batches: Batches,
    vector: MaybeTensors,
    *,
    mixed_only: bool,
    check: bool,
) -> SecondOrder:
    """The products by differentiating the gradient, the graph of one batch at a time.

    Args:
        point: where the hypergradient is asked for.
        outer: the outer parameters, as leaves.
        at: the parameters, buffers and random numbers to differentiate at.
        batches: what the inner loss looks at.
        vector: v, one entry for each inner parameter.
        mixed_only: leave G_ww v away.
        check: whether to look for operators that cannot be differentiated twice.

    Raises:
        DoubleBackwardError: there is one.
    """
    w = leaves(at.inner)
    wanted = outer if mixed_only else (*outer, *w)

    def differentiate(loss: Tensor) -> tuple[Tensor | None, ...]:
        grads = gradients(loss, w, create_graph=True)
        if check:
            check_twice_differentiable(grads, outer)
        return pull_back(grads, wanted, vector)

    at.rng.restore()
    loss, found, _ = accumulated(point, "inner", w, outer, at.buffers, batches, differentiate)
    return SecondOrder(loss, found[len(outer) :], found[: len(outer)])


def forward_over_reverse(
    point: Point,
    outer: Tensors,
    at: Snapshot,
    batches: Batches,
    vector: MaybeTensors,
    *,
    mixed_only: bool,
    check: bool,
) -> SecondOrder:
    """The products by a gradient over dual numbers, one batch at a time; see `double_backward`.

    Raises:
        NoForwardModeError: an operator, or its backward, has no forward mode, or a wrong one.
    """
    w = leaves(at.inner)  # leaves, even if G_ww v is not wanted: a loss may ask what requires a gradient
    wanted = outer if mixed_only else (*outer, *w)
    mode = _LossOverDuals()

    def differentiate(loss: Tensor) -> tuple[Tensor | None, ...]:
        if not loss.requires_grad:
            return (None,) * len(wanted)
        if check:
            _check_forward_over_reverse(point, loss)
        # A tangent that is written out, because some operators cannot accumulate into an implied zero.
        seed = forward_ad.make_dual(torch.ones_like(loss), torch.zeros_like(loss))
        with mode.suspended():
            grads = torch.autograd.grad(loss, wanted, grad_outputs=seed, allow_unused=True)
        return tuple(None if grad is None else forward_ad.unpack_dual(grad).tangent for grad in grads)

    def single(batch: Batches, weight: float, before: NamedTensors) -> Found:
        # Tangents live as long as their level, so each batch has its own.
        with _named(point), forward_ad.dual_level(), mode:
            dual = [
                one if along is None else forward_ad.make_dual(one, along * weight if weight != 1 else along)
                for one, along in zip(w, vector, strict=True)
            ]
            loss, found, after = accumulated(point, "inner", dual, outer, before, batch, differentiate)
        return loss if weight == 1 else loss * weight, found, after

    at.rng.restore()
    loss, found, _ = summed(batches, at.buffers, single)
    return SecondOrder(loss, found[len(outer) :], found[: len(outer)])


class _LossOverDuals(TorchFunctionMode):
    """Two corrections of forward mode while a loss runs.

    What is computed under no_grad is a constant of the gradient, so it must carry no tangent; by itself
    torch.no_grad() does not touch forward mode. And the derivative of F.mse_loss writes into tangents, which
    must therefore be written out where they are implied zeros (github.com/pytorch/pytorch/issues/123996).
    """

    def __init__(self) -> None:
        super().__init__()
        self._active = True

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, without forward mode where grad mode is off."""
        kwargs = kwargs or {}
        if not self._active:
            return func(*args, **kwargs)
        if not torch.is_grad_enabled():
            with forward_ad._set_fwd_grad_enabled(False):
                return func(*args, **kwargs)
        if func is F.mse_loss:
            args, kwargs = tree_map(_with_tangent, (args, kwargs))
        return func(*args, **kwargs)

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """While autograd runs backwards, which is without grad mode too."""
        self._active = False
        try:
            yield
        finally:
            self._active = True


def _with_tangent(value: Any) -> Any:
    """A floating-point tensor whose tangent, if it has none, is zeros."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    if forward_ad.unpack_dual(value).tangent is not None:
        return value
    return forward_ad.make_dual(value, torch.zeros_like(value))


_WRONG_FORWARD_MODE = (
    "LinalgSolveExBackward",
    "LinalgSlogdetBackward",
    "LinalgDetBackward",
    "CholeskyInverseBackward",
    "torch::jit",
)
"""Nodes whose backward pass has wrong tangents in torch 2.15, while double backward of them is right; so has
a product by scatter_reduce."""


def _check_forward_over_reverse(point: Point, loss: Tensor) -> None:
    problem = point.problem
    modules = (one for side in (problem.inner, problem.outer) for one in side.modules())
    scripted = any(isinstance(one, torch.jit.ScriptModule) for one in modules)  # fused once they are warm
    wrong = "a module of torch.jit" if scripted else None
    wrong = wrong or next((node.name() for node in graph([loss]) if _is_wrong(node)), None)
    if wrong is not None:
        raise NoForwardModeError(
            "torch's forward mode over the backward pass of an operator in it is wrong",
            where=problem.describe("inner"),
            found=wrong,
            fix="use Unrolled(products='double-backward'), or 'auto' to fall back to it",
        )


def _is_wrong(node: Any) -> bool:
    name = node.name()
    if name.startswith("ScatterReduceBackward"):
        return bool(node._saved_reduce == "prod")
    return name.startswith(_WRONG_FORWARD_MODE)


_NO_FORWARD_MODE = ("forward ad", "forward-mode", "forward mode", "zerotensor")


@contextlib.contextmanager
def _named(point: Point) -> Iterator[None]:
    """Name the operators that have no forward mode."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        message = str(error)
        if not any(sign in message.lower() for sign in _NO_FORWARD_MODE):
            raise
        raise NoForwardModeError(
            "an operator in it, or in its backward pass, has no forward mode",
            where=point.problem.describe("inner"),
            found=message.splitlines()[0],
            fix="use Unrolled(products='double-backward'), or 'auto' to fall back to it",
        ) from error
