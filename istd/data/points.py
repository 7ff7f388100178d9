"""Point labels from masks."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def centroid_points(mask: np.ndarray, connectivity: int = 8) -> np.ndarray:
    """One point per target: the pixel at the centroid of each connected component.

    The centroid is rounded to the nearest pixel, exact halves to the even one (the convention of the point
    labels that PAL and its successors publish). Where that pixel is not on the component (a ring, a bent
    streak), the component's pixel nearest to the centroid is taken, so that a point always is on its target.

    Args:
        mask: [H, W]; non-zero on targets.
        connectivity: 8 (pixels that touch at a corner are one target) or 4.

    Returns:
        int64 [N, 2], rows (y, x), in the raster order of the components' first pixels.

    Raises:
        ValueError: another connectivity, or a mask that is not 2-D.
    """
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity is {connectivity}, expected 4 or 8")
    if mask.ndim != 2:
        raise ValueError(f"the mask has shape {mask.shape}, expected [H, W]")
    structure = np.ones((3, 3)) if connectivity == 8 else None
    labels, count = ndimage.label(mask, structure)
    points = np.empty((count, 2), np.int64)
    for i, window in enumerate(ndimage.find_objects(labels)):
        corner = np.array([side.start for side in window])
        pixels = np.argwhere(labels[window] == i + 1) + corner
        centroid = pixels.sum(0) / len(pixels)
        point = np.rint(centroid).astype(np.int64)
        if labels[tuple(point)] != i + 1:
            point = pixels[np.argmin(((pixels - centroid) ** 2).sum(1))]
        points[i] = point
    return points
