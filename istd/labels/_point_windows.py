"""First labels point by point: each in a window of its own, and their union is the image's label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ._checks import IntArray
from ._initial import InitialLabels

LabelWindow = Callable[[npt.NDArray[np.uint8], int, int], npt.NDArray[Any] | None]
"""Called with a window [h, w] and the point's row and column in it: labels in [0, 1] [h, w], or None."""


def label_windows(
    image: npt.NDArray[np.uint8],
    points: IntArray,
    reach: tuple[int, int],
    label: LabelWindow,
    fallback_radius: int = 0,
) -> InitialLabels:
    """Label every point in its window, cut at the image's border; of labels that overlap the larger counts.

    Args:
        image: uint8 [H, W].
        points: int64 [N, 2], rows (y, x); these pixels are 1 in any case.
        reach: how many pixels a window has up and left of its point, and down and right of it.
        label: what to do with each.
        fallback_radius: where `label` finds nothing the point failed, and the square of this radius is 1.
    """
    height, width = image.shape
    before, after = reach
    mask = np.zeros(image.shape, np.float32)
    succeeded = np.zeros(len(points), np.bool_)
    for index, (y, x) in enumerate(points.tolist()):
        top, left = max(y - before, 0), max(x - before, 0)
        window = np.s_[top : min(y + after + 1, height), left : min(x + after + 1, width)]
        found = label(image[window], y - top, x - left)
        if found is None:
            r = fallback_radius
            mask[max(y - r, 0) : y + r + 1, max(x - r, 0) : x + r + 1] = 1.0
        else:
            np.maximum(mask[window], found, out=mask[window])
            succeeded[index] = True
    mask[points[:, 0], points[:, 1]] = 1.0
    return InitialLabels(mask, succeeded)
