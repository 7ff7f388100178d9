"""Where a restarted inner problem begins again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ._level import Level
from ._plain import plain
from .errors import StateError
from .problem import Problem


class RestartPoint:
    """The inner module, its optimiser and its scheduler as they were when this was made.

    Parameters and buffers that `outer` holds too belong to it: they go on.
    """

    def __init__(self, problem: Problem, level: Level) -> None:
        self._problem = problem
        self._level = level
        self._state: Mapping[str, Any] = {"module": plain(self._own()), "level": level.state_dict()}

    def restore(self) -> None:
        """Put everything back."""
        live = self._own()
        with torch.no_grad():
            for name, value in self._state["module"].items():
                live[name].copy_(value)
        self._level.load_state_dict(self._state["level"])

    def state_dict(self) -> dict[str, Any]:
        """The point itself, as plain data."""
        state: dict[str, Any] = plain(self._state)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            StateError: it is the point of another module.
        """
        found, expected = (
            {name: tuple(one.shape) for name, one in module.items()}
            for module in (state["module"], self._state["module"])
        )
        if found != expected:
            differing = sorted(name for name, _ in found.items() ^ expected.items())
            raise StateError("the restart point is that of another module", where="restart", found=differing)
        self._state = plain({"module": state["module"], "level": state["level"]})

    def _own(self) -> dict[str, Tensor]:
        inner, outer = self._problem.inner, self._problem.outer
        shared = {id(one) for one in (*outer.parameters(), *outer.buffers())}
        named = (*inner.named_parameters(), *inner.named_buffers())
        return {name: one for name, one in named if id(one) not in shared}
