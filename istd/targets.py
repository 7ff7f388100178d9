"""The targets in a probability map, as rows for a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ._regions import find_regions
from .errors import DataError


@dataclass(frozen=True)
class Target:
    """One detected target.

    Attributes:
        x, y: centroid of its pixels: column and row, in pixels, the first pixel's centre at 0.
        area: its pixels.
        score: the highest probability in it.
    """

    x: float
    y: float
    area: int
    score: float


def list_targets(
    probability: npt.NDArray[np.floating[Any]],
    threshold: float = 0.5,
    connectivity: int = 8,
    min_area: int = 1,
) -> list[Target]:
    """The connected regions of a probability map above a threshold, in raster order of their first pixel.

    Args:
        probability: float [H, W].
        threshold: a pixel belongs to a target where its probability is strictly above.
        connectivity: 8 or 4.
        min_area: regions of fewer pixels are left out.

    Raises:
        DataError: the map is not [H, W] of floating point numbers; ConfigError: another connectivity.
    """
    probability = np.asarray(probability)
    if probability.ndim != 2 or not np.issubdtype(probability.dtype, np.floating):
        raise DataError(
            "targets are listed from a map of probabilities",
            found=f"{probability.dtype} {probability.shape}",
            expected="float [H, W]",
        )
    regions = find_regions(probability > threshold, connectivity)
    if regions.count == 0:
        return []
    scores = np.zeros(regions.count + 1, probability.dtype)
    inside = np.flatnonzero(regions.labels)
    np.maximum.at(scores, regions.labels.reshape(-1)[inside], probability.reshape(-1)[inside])
    return [
        Target(float(x), float(y), int(area), float(score))
        for (y, x), area, score in zip(regions.centroids, regions.areas, scores[1:], strict=True)
        if area >= min_area
    ]
