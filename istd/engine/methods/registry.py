"""Training methods by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ...errors import ConfigError
from ..presets import add_preset
from .base import Method

_METHODS: dict[str, type[Method]] = {}
_M = TypeVar("_M", bound=type[Method])


def register_method(name: str, **preset: Any) -> Callable[[_M], _M]:
    """Register a subclass of `Method` under `name`, the value of `--method` (a class decorator).

    Args:
        name: lower case, words joined by "-".
        **preset: where its settings differ from the reference schedule in `presets.py`.

    Raises:
        ConfigError: the name is taken, the preset has settings that are the same for all methods, or the
            class has no `supervision`.
    """

    def register(kind: _M) -> _M:
        supervision = getattr(kind, "supervision", None)
        add_preset(name, preset, supervision=supervision, uses_clusters=kind.uses_clusters)
        _METHODS[name] = kind
        return kind

    return register


def list_methods() -> list[str]:
    """The names of the registered training methods, in the order of their registration."""
    return list(_METHODS)


def method_class(name: str) -> type[Method]:
    """The class registered under `name`. Raises `ConfigError` if there is none."""
    if name not in _METHODS:
        raise ConfigError("there is no such training method", found=name, expected=" | ".join(_METHODS))
    return _METHODS[name]
