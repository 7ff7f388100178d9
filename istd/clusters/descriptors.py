"""A fixed vector of named numbers that describes the background of an infrared image.

The reference clusters images by 55 descriptors of the same families. Image width and height are not among
these: they say where a file comes from, not how hard it is. Descriptors with heavy tails are logarithms and
named so: standardised as they are, one odd image would take a cluster for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from . import _contrast, _gradient, _intensity, _noise, _spectrum, _texture
from ._prepared import Prepared

_FAMILIES: tuple[tuple[tuple[str, ...], Callable[[Prepared], dict[str, float]]], ...] = (
    (_intensity.NAMES, _intensity.describe),
    (_contrast.NAMES, _contrast.describe),
    (_gradient.NAMES, _gradient.describe),
    (_texture.NAMES, _texture.describe),
    (_spectrum.NAMES, _spectrum.describe),
    (_noise.NAMES, _noise.describe),
)

DESCRIPTOR_NAMES: tuple[str, ...] = tuple(name for names, _ in _FAMILIES for name in names)
"""The names of the columns of `describe`, in order."""

MIN_SIDE = 16
"""Shortest side of an image that can be described, px."""


def describe(image: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Describe an image: float64 [len(DESCRIPTOR_NAMES)], finite for every image, the same at every call.

    Args:
        image: uint8 [H, W], both sides at least 16 px.

    Raises:
        DataError: another dtype or shape, or a smaller image.
    """
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.ndim != 2
        or min(image.shape) < MIN_SIDE
    ):
        raise DataError(
            "this image cannot be described",
            found=f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}",
            expected=f"uint8 [H, W], at least {MIN_SIDE} px on each side",
        )
    prepared = Prepared(np.ascontiguousarray(image))
    columns = []
    for names, family in _FAMILIES:
        values = family(prepared)
        columns += [values[name] for name in names]
    return np.array(columns, dtype=np.float64)
