"""Networks by name, after timm's habits: `register_model`, `list_models`, `create_model`."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable
from typing import Any

from ..errors import ModelError
from .backbone import Backbone

Entrypoint = Callable[..., Backbone]

_ENTRYPOINTS: dict[str, Entrypoint] = {}


def register_model(entrypoint: Entrypoint) -> Entrypoint:
    """Register a function `name(in_chans=3, **kwargs) -> Backbone` under its own name (a decorator).

    Raises:
        ModelError: if the name is taken.
    """
    name = entrypoint.__name__
    if name in _ENTRYPOINTS:
        raise ModelError(f"a backbone named {name!r} is registered already")
    _ENTRYPOINTS[name] = entrypoint
    return entrypoint


def list_models(filter: str = "*") -> list[str]:
    """Names of the registered backbones that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_ENTRYPOINTS, filter))


def create_model(name: str, in_chans: int = 3, **kwargs: Any) -> Backbone:
    """Build a backbone by name, with random weights drawn from PyTorch's global generator.

    Args:
        name: one of `list_models()`; upper case, `-` and `_` do not matter ("MLCL-Net" is "mlclnet").
        in_chans: input channels of the network.
        **kwargs: `prior`, `mean`, `std`, and what the network itself takes.

    Raises:
        ModelError: if there is no such backbone, or it does not take one of the arguments.
    """
    key = name.lower().replace("-", "").replace("_", "")
    if key not in _ENTRYPOINTS:
        close = difflib.get_close_matches(key, _ENTRYPOINTS, n=1)
        raise ModelError(
            f"there is no backbone named {name!r}",
            expected=f"one of {', '.join(list_models())}",
            fix=f"did you mean {close[0]!r}?" if close else None,
        )
    try:
        model = _ENTRYPOINTS[key](in_chans=in_chans, **kwargs)
    except TypeError as error:
        raise ModelError(f"{key} cannot be built with these arguments", found=error) from error
    model.name = key
    return model
