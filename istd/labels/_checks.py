"""Checks that every function of this package makes of its arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, LabelError

IntArray = npt.NDArray[np.int64]

_BAND_BYTES = 2**18  # rows that fit into a core's cache together


def check_image(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The image as contiguous uint8 [H, W], or a `DataError`."""
    if not isinstance(image, np.ndarray) or image.ndim != 2 or image.dtype != np.uint8 or image.size == 0:
        found = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
        raise DataError(
            "the image is not a gray 8-bit array", found=found, expected="uint8 [H, W], not empty"
        )
    return np.ascontiguousarray(image)


def check_points(points: npt.ArrayLike, shape: tuple[int, ...]) -> IntArray:
    """The points as int64 [N, 2] rows (y, x) inside `shape`, or a `DataError`."""
    array = np.asarray(points)
    if array.size == 0:
        return np.zeros((0, 2), np.int64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise DataError(
            "points are not rows of two numbers", found=f"shape {array.shape}", expected="[N, 2], (y, x)"
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(
            "points are not whole pixel positions", found=array.dtype, expected="an integer dtype"
        )
    array = array.astype(np.int64, copy=False)
    outside = (array < 0).any(axis=1) | (array >= np.asarray(shape[:2])).any(axis=1)
    if outside.any():
        worst = array[np.flatnonzero(outside)[0]].tolist()
        raise DataError(
            f"{int(outside.sum())} of {len(array)} points lie outside the image",
            found=f"(y, x) = {tuple(worst)}",
            expected=f"0 ≤ y < {shape[0]}, 0 ≤ x < {shape[1]}",
            fix="check the order (row first, then column) and the image's size",
        )
    return array


def check_unit_map(values: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """A `LabelError` unless `values` is a floating [H, W] array within [0, 1].

    Returns:
        The maximum of each row, [H]: where it is 0 the row is empty, as most are with small targets.
    """
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not np.issubdtype(values.dtype, np.floating):
        found = f"{getattr(values, 'dtype', type(values).__name__)} {getattr(values, 'shape', '')}"
        raise LabelError(
            f"the {name} is not a floating-point map", found=found, expected="float32 or float64 [H, W]"
        )
    if not values.size:
        return np.zeros(len(values), values.dtype)
    lows, highs = row_extremes(values)
    low, high = lows.min(), highs.max()
    if not (low >= 0.0 and high <= 1.0):  # also False for NaN
        raise LabelError(
            f"the {name} has values outside [0, 1]",
            found=f"minimum {low:g}, maximum {high:g}",
            expected="probabilities; apply the sigmoid to logits first",
        )
    return highs


def row_extremes(values: npt.NDArray[np.floating[Any]]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """(minimum, maximum) of each row of a map [H, W] that is not empty; NaN for a row that has one."""
    low, high = np.empty(len(values), values.dtype), np.empty(len(values), values.dtype)
    for rows in bands(len(values), values.shape[1] * values.itemsize):
        values[rows].min(axis=1, out=low[rows])
        values[rows].max(axis=1, out=high[rows])
    return low, high


def bands(rows: int, row_bytes: int) -> list[slice]:
    """Some rows in bands: what is done to each band in turn finds it in the cache."""
    step = max(1, _BAND_BYTES // row_bytes)
    return [slice(row, row + step) for row in range(0, rows, step)]


def check_same_shape(first: npt.NDArray[Any], second: npt.NDArray[Any], names: str) -> None:
    """A `LabelError` unless both arrays have one shape."""
    if first.shape != second.shape:
        raise LabelError(
            f"{names} differ in size", found=f"{first.shape} and {second.shape}", expected="one size"
        )
