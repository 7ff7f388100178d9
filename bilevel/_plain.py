"""State as plain data: what JSON knows, and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .errors import OptionError


def plain(value: Any) -> Any:
    """A copy made of dicts with string keys, lists, tensors and plain values.

    Raises:
        OptionError: something in it is none of these.
    """
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise OptionError(
        "a value that cannot be saved as plain data",
        where="state_dict",
        found=f"{type(value).__module__}.{type(value).__qualname__}",
        expected="tensors, numbers, strings, None, and lists and dicts of them",
    )


def plain_module(module: nn.Module) -> dict[str, Any]:
    """A copy of a module's state."""
    return {name: plain(value) for name, value in module.state_dict().items()}
