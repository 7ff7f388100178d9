"""Point labels from masks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from .._regions import find_regions


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
    components = list(_components(mask, connectivity))
    points = np.empty((len(components), 2), np.int64)
    for i, pixels in enumerate(components):
        centroid = pixels.sum(0) / len(pixels)
        points[i] = _on_target(pixels, centroid)
    return points


def coarse_points(mask: np.ndarray, rng: np.random.Generator, connectivity: int = 8) -> np.ndarray:
    """One point per target, somewhere near its middle, as a person would click it.

    The point is drawn around the centroid, normally distributed with a standard deviation of an eighth of the
    component's bounding box in each direction, until it lies on the component: the rule of the coarse labels
    of LESPS (Ying et al., CVPR 2023) and PAL. Of a component that 64 draws miss (a thin ring), the pixel
    nearest to the first draw is taken.

    Args:
        mask: [H, W]; non-zero on targets.
        rng: decides the points.
        connectivity: 8 or 4, as for `centroid_points`.

    Returns:
        int64 [N, 2], rows (y, x), in the raster order of the components' first pixels.

    Raises:
        ValueError: another connectivity, or a mask that is not 2-D.
    """
    components = list(_components(mask, connectivity))
    points = np.empty((len(components), 2), np.int64)
    for i, pixels in enumerate(components):
        sides = np.ptp(pixels, axis=0) + 1
        draws = pixels.mean(0) + sides / 8 * rng.standard_normal((64, 2))
        on_target = {tuple(pixel) for pixel in pixels.tolist()}
        hits = [draw for draw in np.rint(draws).astype(np.int64).tolist() if tuple(draw) in on_target]
        points[i] = hits[0] if hits else _nearest(pixels, draws[0])
    return points


def point_rng(seed: int, name: str) -> np.random.Generator:
    """The generator of one image's coarse points: it depends on seed and name alone, not on other images."""
    digest = hashlib.sha256(name.encode("utf-8")).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def _components(mask: np.ndarray, connectivity: int) -> Iterator[np.ndarray]:
    """The pixels, int64 [P, 2], of each connected component, in the raster order of their first pixels."""
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity is {connectivity}, expected 4 or 8")
    if mask.ndim != 2:
        raise ValueError(f"the mask has shape {mask.shape}, expected [H, W]")
    labels = find_regions(mask, connectivity).labels
    for i, window in enumerate(ndimage.find_objects(labels)):
        corner = np.array([side.start for side in window])
        yield np.argwhere(labels[window] == i + 1) + corner


def _on_target(pixels: np.ndarray, centroid: np.ndarray) -> np.ndarray:
    point = np.rint(centroid).astype(np.int64)
    return point if (pixels == point).all(1).any() else _nearest(pixels, centroid)


def _nearest(pixels: np.ndarray, place: np.ndarray) -> np.ndarray:
    return pixels[np.argmin(((pixels - place) ** 2).sum(1))]
