"""Where the mask and the points of an image come from: what reading a dataset and `istd doctor` share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .._fit import fit_points
from .._imagefile import read_mask
from ..pointfiles import read_point_image
from ._files import inside
from ._parts import Parts


def stored_mask(
    root: Path, parts: Parts, name: str, threshold: float | None
) -> tuple[np.ndarray, Path] | None:
    """The mask of an image, bool [h, w] in the size it is stored in, and its file; None without a mask.

    Raises:
        DataError: a link that leads out of `root`, or as for `read_mask`.
    """
    path = None if parts.masks is None else parts.masks.get(name)
    return None if path is None else (read_mask(inside(root, path), threshold), path)


def given_points(
    root: Path, parts: Parts, name: str, size: tuple[int, int]
) -> tuple[np.ndarray, str | None] | None:
    """The points of an image, int64 [N, 2], and what was done to them, if anything.

    They are those of the dataset's point file; without one, the dots of its point image, scaled to the
    image's `size` (height, width). None where the image has neither: its mask is all there is.

    Raises:
        DataError: a point image that cannot be used, or a link that leads out of `root`.
    """
    if parts.points is not None:
        return parts.points.get(name, np.empty((0, 2), np.int64)), None
    path = None if parts.point_images is None else parts.point_images.get(name)
    if path is None:
        return None
    points, its_size = read_point_image(inside(root, path))
    if its_size == size:
        return points, None
    note = f"{path}: the points were scaled to the image ({show_sizes('points', its_size, size)})"
    return fit_points(points, its_size, size, parts.images[name], path), note


def show_sizes(what: str, size: tuple[int, ...], image: tuple[int, int]) -> str:
    """Two sizes side by side, for a message."""
    return f"{what} {size[0]} × {size[1]}, image {image[0]} × {image[1]}"
