"""The registry of label initialisations. A new one is one file that registers itself, plus one import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ._checks import IntArray, check_image, check_points


@dataclass(frozen=True)
class InitialLabels:
    """The first label of one image.

    Attributes:
        mask: float32 [H, W], the probability that a pixel is of a target: 1 on every annotated pixel; 0 or 1
            elsewhere, and in between only from starts that say so (`levels`).
        succeeded: bool [N], whether a region was found at each point, in the order of the points.
    """

    mask: npt.NDArray[np.float32]
    succeeded: npt.NDArray[np.bool_]

    def enters_pool(self, min_success: float = 0.8) -> bool:
        """Whether the image trains from the start or waits until it is mined (PAL, section on the start).

        Args:
            min_success: the share of points, in [0, 1], that must have succeeded. An image without points
                always enters.
        """
        return len(self.succeeded) == 0 or bool(self.succeeded.mean() >= min_success)


Initializer = Callable[[npt.NDArray[np.uint8], IntArray, Any], InitialLabels]
_F = TypeVar("_F", bound=Initializer)
_REGISTRY: dict[str, tuple[Initializer, type[Any]]] = {}


def register_initialization(name: str, settings: type[Any]) -> Callable[[_F], _F]:
    """Register `function(image uint8 [H, W], points int64 [N, 2], settings)` under `name`.

    Args:
        name: what users type.
        settings: a frozen dataclass with defaults for every field.
    """

    def register(function: _F) -> _F:
        if name in _REGISTRY:
            raise ConfigError("an initialisation of this name exists already", found=name)
        _REGISTRY[name] = (function, settings)
        return function

    return register


def list_initializations() -> list[str]:
    """The names that `initialize` knows, sorted."""
    return sorted(_REGISTRY)


def initialization_settings(method: str, settings: object = None) -> Any:
    """The settings object of `method`: its defaults, with `settings` (object or mapping of fields) over them.

    Raises:
        ConfigError: unknown method, unknown field, or settings of another method.
    """
    if method not in _REGISTRY:
        raise ConfigError(
            "unknown label initialisation", found=method, expected=", ".join(list_initializations())
        )
    kind = _REGISTRY[method][1]
    if settings is None:
        return kind()
    if isinstance(settings, kind):
        return settings
    if isinstance(settings, Mapping):
        known = [field.name for field in fields(kind)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ConfigError(
                f"unknown settings of the initialisation {method!r}",
                found=", ".join(map(str, unknown)),
                expected=", ".join(known),
            )
        return replace(kind(), **settings)
    raise ConfigError(
        f"these are not settings of the initialisation {method!r}",
        found=type(settings).__name__,
        expected=f"{kind.__name__} or a mapping of its fields",
    )


def initialize(
    image: npt.NDArray[np.uint8],
    points: npt.ArrayLike,
    method: str = "contrast",
    settings: object = None,
) -> InitialLabels:
    """The first label of an image from one point per target.

    Args:
        image: uint8 [H, W].
        points: integer [N, 2], rows (y, x); may be empty.
        method: one of `list_initializations()`.
        settings: the method's settings object, a mapping of its fields, or None for its defaults.

    Raises:
        DataError: the image is not uint8 [H, W], or a point lies outside it.
        ConfigError: unknown method or settings.
    """
    chosen = initialization_settings(method, settings)
    image = check_image(image)
    return _REGISTRY[method][0](image, check_points(points, image.shape), chosen)
