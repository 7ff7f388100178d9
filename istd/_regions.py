"""Connected regions of binary masks: the one place that decides their order, centroids and holes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .errors import ConfigError

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
LabelArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float64]

_MAX_RUNS = 8  # of more, one call on all is cheaper than many on parts


@dataclass(frozen=True)
class Regions:
    """Connected regions of a mask, numbered 1…count in raster order of their first pixel.

    Attributes:
        labels: int32 [H, W], 0 where the mask is False.
        areas: int64 [count], in pixels.
        centroids: float64 [count, 2], mean (row, column) of the pixels.
    """

    labels: LabelArray
    areas: IntArray
    centroids: FloatArray

    @property
    def count(self) -> int:
        """Number of regions."""
        return len(self.areas)


def as_bytes(mask: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """A C-contiguous uint8 {0, 1} copy or view of a mask of any dtype (nonzero is True)."""
    if mask.dtype == np.bool_:
        return np.ascontiguousarray(mask).view(np.uint8)
    return np.ascontiguousarray(mask != 0).view(np.uint8)


def check_connectivity(connectivity: int) -> int:
    """4 or 8, or a `ConfigError`."""
    if connectivity not in (4, 8) or isinstance(connectivity, float):
        raise ConfigError("unknown connectivity", found=connectivity, expected="4 or 8")
    return connectivity


def find_regions(mask: npt.NDArray[Any], connectivity: int = 8) -> Regions:
    """Connected regions of a mask [H, W] in raster order of their first pixel.

    OpenCV scans blocks of pixels, so its own numbering is not in raster order; anything that is greedy
    over regions needs an order that does not depend on a library's version.
    """
    count, labels = label_mask(mask, connectivity)
    # Only pixels of regions are looked at from here on: OpenCV's own statistics walk the whole image.
    where = flat_positions(labels if mask.dtype != np.bool_ else mask)
    numbers = labels.reshape(-1)[where]
    first = np.zeros(count + 1, np.int64)
    first[numbers[::-1]] = where[::-1]  # of repeated numbers the last assignment stays: the first pixel
    order = 1 + np.argsort(first[1:])  # order[i] is OpenCV's number of region i + 1
    rank = np.zeros(count + 1, np.int32)
    rank[order] = np.arange(1, count + 1, dtype=np.int32)
    numbers = rank[numbers]
    labels.reshape(-1)[where] = numbers
    rows, columns = np.divmod(where, mask.shape[1])
    areas = np.bincount(numbers, minlength=count + 1)[1:]
    sums = [np.bincount(numbers, weights=axis, minlength=count + 1)[1:] for axis in (rows, columns)]
    return Regions(labels, areas.astype(np.int64, copy=False), np.stack(sums, axis=1) / areas[:, None])


def flat_positions(mask: npt.NDArray[Any]) -> IntArray:
    """Flat positions of the nonzero pixels of [H, W] in raster order, as `np.flatnonzero` has them.

    Small targets leave most rows empty; those are only passed over, which is four times faster.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if 2 * rows.size > len(mask):
        return np.flatnonzero(mask)
    found = np.flatnonzero(mask[rows])
    inner, columns = np.divmod(found, mask.shape[1])
    return rows[inner] * mask.shape[1] + columns


def label_mask(mask: npt.NDArray[Any], connectivity: int = 8) -> tuple[int, LabelArray]:
    """(number of regions, int32 labels [H, W]) with the numbering in no particular order; the fast way."""
    check_connectivity(connectivity)
    labels = np.zeros(mask.shape, np.int32)
    total = 0
    # Small targets leave most of an image empty: only the windows around them are labelled.
    for window in _windows(mask):
        count, part = cv2.connectedComponents(
            as_bytes(mask[window]), connectivity=connectivity, ltype=cv2.CV_32S
        )
        if part.shape == mask.shape:
            return count - 1, part
        if total:
            part[part > 0] += total
        labels[window] = part
        total += count - 1
    return total, labels


def _windows(mask: npt.NDArray[Any]) -> list[tuple[slice, slice]]:
    """Windows that hold all of the mask, each with an empty row or column between it and any other.

    No region reaches over an empty row or column, whatever the connectivity.
    """
    return [
        (band, columns)
        for band in _runs(np.asarray(mask.any(axis=1)))
        for columns in _runs(np.asarray(mask[band].any(axis=0)))
    ]


def _runs(line: npt.NDArray[np.bool_]) -> list[slice]:
    """The runs of True in bool [n]; one that spans them all if there are many."""
    places = np.flatnonzero(line)
    if places.size == 0:
        return []
    start, stop = int(places[0]), int(places[-1]) + 1
    if stop - start == places.size:
        return [slice(start, stop)]
    gaps = np.flatnonzero(places[1:] - places[:-1] > 1)
    if gaps.size >= _MAX_RUNS:
        return [slice(start, stop)]
    starts = [start, *places[gaps + 1].tolist()]
    stops = [*(places[gaps] + 1).tolist(), stop]
    return [slice(*run) for run in zip(starts, stops, strict=True)]


def fill_holes(mask: npt.NDArray[Any]) -> BoolArray:
    """The mask [H, W] with the holes of its 8-connected regions filled.

    A hole is background that is not 4-connected to the outside of the image. This is what an external
    contour encloses, so regions that lie in a hole of another region become a part of it.
    """
    background = cv2.copyMakeBorder(as_bytes(mask), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0) ^ 1
    _, labels = cv2.connectedComponents(background, connectivity=4, ltype=cv2.CV_32S)
    return np.ascontiguousarray(labels[1:-1, 1:-1] != labels[0, 0])
