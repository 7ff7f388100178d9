"""Thin layer over torch.autograd.grad: unused inputs, constant outputs, autocast."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._types import MaybeTensors, Tensors


def detached(tensors: Iterable[Tensor]) -> Tensors:
    """The same values without their graph."""
    return tuple(tensor.detach() for tensor in tensors)


def leaves(tensors: Iterable[Tensor]) -> Tensors:
    """The same values as fresh leaves of a new graph (storage shared, nothing copied)."""
    return tuple(tensor.detach().requires_grad_() for tensor in tensors)


def gradients(
    loss: Tensor, inputs: Sequence[Tensor], *, create_graph: bool = False
) -> tuple[Tensor | None, ...]:
    """Gradient of a scalar; None for each input it does not depend on."""
    if not loss.requires_grad or not inputs:
        return (None,) * len(inputs)
    return torch.autograd.grad(loss, inputs, create_graph=create_graph, allow_unused=True)


_WEIGHT_NORM = "the derivative for aten::_weight_norm_interface holds the norms constant, so its own is wrong"


def check_twice_differentiable(grads: MaybeTensors, outer: Iterable[Tensor] = ()) -> None:
    """Raise if an operator on the way from these gradients would be differentiated again wrongly.

    One is a custom function marked with once_differentiable: autograd raises by itself only if it visits the
    mark; asked for given inputs it passes by, and answers as if the function were linear. The other is
    torch's weight norm, see `wrong_again`.

    Raises:
        RuntimeError: as autograd words it; `errors.explained` makes it a `DoubleBackwardError`.
    """
    outer = tuple(outer)
    for node in graph(grads):
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("an autograd.Function in it is marked with once_differentiable")
        reason = wrong_again(node, outer)
        if reason is not None:
            raise RuntimeError(reason)


def wrong_again(node: Any, outer: Iterable[Tensor]) -> str | None:
    """Why the derivative that a node computes must not be differentiated; None if it may.

    Torch's fused weight norm fails torch.autograd.gradgradcheck. Outer parameters, given as values, may be
    normalised by it: they are differentiated once.
    """
    if not node.name().startswith("WeightNormInterfaceBackward"):
        return None
    known = {one.data_ptr() for one in outer}
    behind = (one.variable.data_ptr() for one in _behind([node]) if one.name().endswith("AccumulateGrad"))
    return _WEIGHT_NORM if any(pointer not in known for pointer in behind) else None


def graph(roots: Iterable[Tensor | None]) -> Iterator[Any]:
    """Every node of the graph behind these tensors."""
    return _behind([root.grad_fn for root in roots if root is not None and root.grad_fn is not None])


def _behind(waiting: list[Any]) -> Iterator[Any]:
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)


def pull_back(
    outputs: MaybeTensors, inputs: Sequence[Tensor], cotangents: MaybeTensors, *, retain_graph: bool = False
) -> tuple[Tensor | None, ...]:
    """Vector-Jacobian product Σᵢ cotangentᵢ · ∂outputᵢ/∂inputs; None for an input that no output depends on.

    Outputs that are None or constant, and cotangents that are None (zero), contribute nothing.
    """
    pairs = [
        (output, cotangent)
        for output, cotangent in zip(outputs, cotangents, strict=True)
        if output is not None and cotangent is not None and output.requires_grad
    ]
    if not pairs or not inputs:
        return (None,) * len(inputs)
    return torch.autograd.grad(
        [output for output, _ in pairs],
        inputs,
        grad_outputs=[cotangent for _, cotangent in pairs],
        retain_graph=retain_graph,
        allow_unused=True,
    )


def add(left: MaybeTensors, right: MaybeTensors) -> tuple[Tensor | None, ...]:
    """Element by element sum in which None is zero."""
    return tuple(b if a is None else a if b is None else a + b for a, b in zip(left, right, strict=True))


def subtract(left: MaybeTensors, right: MaybeTensors) -> tuple[Tensor | None, ...]:
    """`left − right`, None being zero."""
    return add(left, tuple(None if value is None else -value for value in right))


@dataclass(frozen=True)
class Autocast:
    """The caller's autocast on one device type; `dtype` is None where it is off."""

    device_type: str
    dtype: torch.dtype | None

    @classmethod
    def capture(cls, device_type: str) -> Autocast:
        """Read what is on now."""
        on = torch.is_autocast_enabled(device_type)
        return cls(device_type, torch.get_autocast_dtype(device_type) if on else None)

    def forward(self) -> contextlib.AbstractContextManager[object]:
        """For losses: as the caller has it, but without the cache of cast copies.

        The cache lives until the caller's autocast ends: it would hold a low-precision copy, with its graph,
        of the parameters of each unrolled step.
        """
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype, cache_enabled=False)

    def backward(self) -> contextlib.AbstractContextManager[object]:
        """For derivatives and updates: off, because they follow the types of the forward pass."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device_type, enabled=False)
