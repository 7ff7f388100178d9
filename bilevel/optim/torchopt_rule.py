"""Any torchopt gradient transformation as an update rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._autograd import graph
from .._types import MaybeTensors, Tensors
from ..errors import UnsupportedOptimizerError
from ._base import State, UpdateRule, no_nan_where_zero, replace_leaves


class TorchoptRule(UpdateRule):
    """Wraps a `torchopt.base.GradientTransformation`, such as `torchopt.rmsprop(1e-3)` or a chain.

    Two of its faults are mended here. The momentum of `torchopt.sgd` and `torchopt.rmsprop` remembers in a
    closure whether it was called before; one throw-away call makes every later call the same function (so
    dampening applies to the first step too). And where a gradient and its moments are exactly 0 the
    derivative of a square root may be 0·∞ = NaN; there it is taken as 0. A parameter that the loss does not
    use has gradient 0. One fault stays: torchopt computes the bias corrections of its Adam family in
    torch's default type, so in float64 they are right to 1e-5 only; `torch.optim.Adam` and `AdamW` are
    exact here.

    Args:
        transformation: the torchopt gradient transformation.

    Raises:
        UnsupportedOptimizerError: by `init`, for `use_accelerated_op=True`: the derivative written by hand
            for that kernel has a wrong ε term.
    """

    def __init__(self, transformation: Any) -> None:
        self.transformation = transformation

    def init(self, params: Tensors) -> State:
        """The transformation's own fresh state."""
        zeros = tuple(torch.zeros_like(param) for param in params)
        with torch.no_grad():
            state = self.transformation.init(zeros)
        with torch.enable_grad():
            asked = tuple(zero.clone().requires_grad_() for zero in zeros)
            updates, _ = self.transformation.update(asked, state, params=zeros, inplace=False)
        _refuse_accelerated(updates)
        with torch.no_grad():
            return self.transformation.init(tuple(param.detach() for param in params))

    def update(
        self, params: Tensors, grads: MaybeTensors, state: State, outer: Mapping[str, Tensor]
    ) -> tuple[Tensors, State]:
        """One step; see `UpdateRule.update`."""
        given = tuple(
            torch.zeros_like(param) if grad is None else no_nan_where_zero(grad)
            for param, grad in zip(params, grads, strict=True)
        )
        seen = tuple(no_nan_where_zero(param) for param in params)
        state = replace_leaves(state, no_nan_where_zero)
        updates, state = self.transformation.update(given, state, params=seen, inplace=False)
        return tuple(param + change for param, change in zip(params, updates, strict=True)), state


def _refuse_accelerated(updates: Tensors) -> None:
    for node in graph(updates):
        made_by = getattr(node, "_forward_cls", None)
        if made_by is not None and made_by.__module__.startswith("torchopt.accelerated_op"):
            raise UnsupportedOptimizerError(
                "the derivative of torchopt's accelerated kernel is wrong",
                where="inner_optimizer",
                found=f"{made_by.__module__}.{made_by.__qualname__}",
                fix="pass use_accelerated_op=False, or use torch.optim.Adam or AdamW",
            )
