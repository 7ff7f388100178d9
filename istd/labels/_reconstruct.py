"""Grayscale reconstruction: how high the best way to a seed stays."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def reconstruct(image: FloatArray, seeds: FloatArray, connectivity: int) -> FloatArray:
    """Reconstruction by dilation (Vincent, IEEE TIP 1993): the lowest level on the best way to a seed.

    Args:
        image: float32 [h, w].
        seeds: float32 [h, w], at most the image: its value at seeds, something low elsewhere.
        connectivity: 4 or 8.

    Returns:
        float32 [h, w]; {result > t} is the region of {image > t} that holds a seed, for every t at once.
    """
    shape = cv2.MORPH_RECT if connectivity == 8 else cv2.MORPH_CROSS
    kernel = cv2.getStructuringElement(shape, (3, 3))
    level = seeds
    while True:
        grown = np.minimum(cv2.dilate(level, kernel), image)
        if np.array_equal(grown, level):
            return grown
        level = grown
