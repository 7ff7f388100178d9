"""An optimiser registered with `higher` as an update rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._autograd import detached
from .._types import MaybeTensors, Tensors
from ._base import State, UpdateRule, no_nan_where_zero, replace_leaves


class HigherRule(UpdateRule):
    """Wraps a `higher.optim.DifferentiableOptimizer`, so that its steps can be taken from any state.

    `from_torch` makes one of an optimiser whose class was registered with `higher.register_optim`; the
    optimisers of torch.optim have rules of their own. Where a gradient and its moments are exactly 0, a
    derivative that would be NaN is taken as 0.

    Args:
        optimizer: the differentiable optimiser. The rule keeps it, and leaves its state as it is.
        constants: the last of its reference parameters, which the rule is not given: frozen ones.
    """

    def __init__(self, optimizer: Any, constants: Tensors = ()) -> None:
        self._optimizer = optimizer
        self._constants = constants
        self._initial = _plain(optimizer.state)

    @classmethod
    def registered(cls, optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> HigherRule | None:
        """The rule of a live optimiser, its settings and its state copied; None if higher has none for it."""
        from higher.optim import get_diff_optim

        given = list(parameters)
        known = {id(one) for one in given}
        others = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in known]
        try:
            # With every parameter that it holds, an unknown class is the only reason left to refuse.
            return cls(get_diff_optim(optimizer, [*given, *others]), detached(others))
        except ValueError:
            return None

    def init(self, params: Tensors) -> State:
        """The carried state."""
        return self._initial

    def update(
        self, params: Tensors, grads: MaybeTensors, state: State, outer: Mapping[str, Tensor]
    ) -> tuple[Tensors, State]:
        """One step; see `UpdateRule.update`."""
        given = [None if grad is None else no_nan_where_zero(grad) for grad in grads]
        given += [None] * len(self._constants)
        state = replace_leaves(state, no_nan_where_zero)
        unused = torch.zeros((), requires_grad=True)  # `step` differentiates a loss; the callback replaces it
        try:
            self._optimizer.state = [defaultdict(dict, _plain([group])[0]) for group in state]
            new = self._optimizer.step(
                unused, params=(*params, *self._constants), grad_callback=lambda _: given
            )
            return tuple(new[: len(params)]), _plain(self._optimizer.state)
        finally:  # keep no graph alive
            self._optimizer.state = [defaultdict(dict, _plain([group])[0]) for group in self._initial]
            for group in self._optimizer.param_groups:
                group["params"] = [None] * len(group["params"])


def _plain(state: Iterable[Mapping[int, Mapping[str, Any]]]) -> list[dict[int, dict[str, Any]]]:
    """A copy as plain dicts: group, index of the parameter in it, name."""
    return [{index: dict(one) for index, one in group.items()} for group in state]
