"""State as plain data: what JSON knows, and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
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


def unsaved_buffers(module: nn.Module) -> dict[str, Any]:
    """A copy of the buffers that a module's own state leaves out (`persistent=False`)."""
    saved = module.state_dict().keys()
    return {name: plain(value) for name, value in module.named_buffers() if name not in saved}


def load_unsaved_buffers(module: nn.Module, values: Mapping[str, Any]) -> None:
    """Put back what `unsaved_buffers` gave; one that the module no longer has is left out."""
    live = dict(module.named_buffers())
    with torch.no_grad():
        for name, value in values.items():
            if name in live and live[name].shape == value.shape:
                live[name].copy_(value)
            elif name in live:  # such as a cache that grows
                path, _, own = name.rpartition(".")
                setattr(module.get_submodule(path), own, value.detach().clone().to(live[name].device))
