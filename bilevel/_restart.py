"""Where a restarted inner problem begins again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ._level import Level
from ._live import plain


class RestartPoint:
    """The inner module, its optimiser and its scheduler as they were when this was made."""

    def __init__(self, module: nn.Module, level: Level) -> None:
        self._module = module
        self._level = level
        self._state: Mapping[str, Any] = {"module": _copied(module), "level": level.state_dict()}

    def restore(self) -> None:
        """Put everything back."""
        self._module.load_state_dict(self._state["module"])
        self._level.load_state_dict(self._state["level"])

    def state_dict(self) -> dict[str, Any]:
        """The point itself, as plain data."""
        state: dict[str, Any] = plain(self._state)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._state = plain({"module": state["module"], "level": state["level"]})


def _copied(module: nn.Module) -> dict[str, Any]:
    return {name: plain(value) for name, value in module.state_dict().items()}
