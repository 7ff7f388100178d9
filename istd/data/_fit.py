"""Masks and points whose size is not their image's."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from .._regions import find_regions
from ..errors import DataError
from .points import centroid_points


def is_uniform_scale(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether `other` is `size` (height, width) times one factor, but for rounding to whole pixels."""
    (height, width), (other_height, other_width) = size, other
    # Each side allows the factors that round to it; the two must have one in common.
    low = max((other_height - 0.5) / height, (other_width - 0.5) / width)
    high = min((other_height + 0.5) / height, (other_width + 0.5) / width)
    return low < high


def fit_mask(mask: np.ndarray, size: tuple[int, int], image_path: Path, mask_path: Path) -> np.ndarray:
    """Resize a mask to its image where the two sizes are the same but for one scale factor.

    A pixel is target where at least half of its area is. Targets that would vanish keep one pixel, the one
    at their centroid.

    Args:
        mask: bool [h, w].
        size: (height, width) of the image.
        image_path: named in the error.
        mask_path: named in the error.

    Returns:
        bool [height, width].

    Raises:
        DataError: the sizes differ by more than a scale factor, so the mask is of another image or crop.
    """
    _check_scale("mask", (mask.shape[0], mask.shape[1]), size, image_path, mask_path)
    height, width = size
    method = cv2.INTER_AREA if height < mask.shape[0] else cv2.INTER_LINEAR
    fitted = cv2.resize(mask.astype(np.float32), (width, height), interpolation=method) >= 0.5
    scale = np.array(size) / mask.shape
    points = ((centroid_points(mask) + 0.5) * scale).astype(np.int64)
    boxes = ndimage.find_objects(find_regions(mask).labels)
    for box, (y, x) in zip(boxes, points, strict=True):
        rows, columns = (
            slice(int(np.floor(side.start * s)), int(np.ceil(side.stop * s)))
            for side, s in zip(box, scale, strict=True)
        )
        if not fitted[rows, columns].any():
            fitted[y, x] = True
    return fitted


def fit_points(
    points: np.ndarray, its_size: tuple[int, int], size: tuple[int, int], image_path: Path, path: Path
) -> np.ndarray:
    """Scale points to their image where the two sizes are the same but for one scale factor.

    Args:
        points: integers [N, 2], rows (y, x), of an image of `its_size`.
        its_size: (height, width) that the points count in.
        size: (height, width) of the image.
        image_path: named in the error.
        path: the points' file, named in the error.

    Returns:
        int64 [N, 2], inside the image.

    Raises:
        DataError: the sizes differ by more than a scale factor.
    """
    _check_scale("point image", its_size, size, image_path, path)
    return np.asarray((points + 0.5) * size / its_size, np.int64)


def _check_scale(
    what: str, its_size: tuple[int, int], size: tuple[int, int], image_path: Path, path: Path
) -> None:
    if not is_uniform_scale(size, its_size):
        raise DataError(
            f"the {what} has another size than its image, and no single scale factor explains it",
            where=path,
            found=f"{what} {its_size[0]} × {its_size[1]}, image {size[0]} × {size[1]} ({image_path.name})",
            expected="the same height and width",
            fix=f"find the {what} that belongs to the image, or take its name out of the split",
        )
