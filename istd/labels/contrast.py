"""First labels from local contrast: the bright region at the point, cut at a fraction of its contrast.

Around each point the peak P is the brightest pixel within `peak_radius`, the background B a percentile of
the window; the label is the connected region at the point where the image exceeds B + fraction·(P − B).
A fraction of ½ would be the full width at half maximum of a blurred point source; annotators draw wider.
How much wider is their convention, not physics, so the default 0.3 is a prior, not a measurement of the
data at hand: where a few masks can be trusted, `calibrate` chooses the fraction from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from .._regions import BoolArray, label_mask
from ..errors import ConfigError
from ._checks import IntArray
from ._initial import InitialLabels, register_initialization
from ._point_windows import label_windows
from ._window_checks import check_window

_MAD_TO_SIGMA = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class ContrastSettings:
    """How the region is cut; every length in pixels.

    Attributes:
        fraction: where between background (0) and peak (1) the boundary lies.
        window: odd side of the window, cut at the image's border.
        peak_radius: the peak is looked for within this Chebyshev distance of the point, because a mask's
            centroid (or a click) is not always the brightest pixel.
        percentile: of the window, taken as the background; above the median, because cloud edges and
            neighbouring targets raise the level that the target stands on.
        connectivity: 4 or 8.
        min_contrast: the point failed if P − B is less, in gray levels.
        noise_floor: the boundary is at least the ring's median + noise_floor·σ, with σ from the MAD over
            the window outside a first region; 0 switches it off. Helps on smooth backgrounds where a low
            fraction is right, hurts on cluttered ones.
        max_share: a region that covers more of the window than this has no boundary of its own (the
            percentile alone allows 35 %); it is cut again, half-way up to the peak. Touching the window's
            border is no such sign: real targets can be longer than the window.
        retries: how often it is cut again before the point counts as failed.
        fallback_radius: a failed point is labelled by the square of this radius (0: the point alone).
    """

    fraction: float = 0.3
    window: int = 33
    peak_radius: int = 2
    percentile: float = 65.0
    connectivity: int = 8
    min_contrast: float = 1.0
    noise_floor: float = 0.0
    max_share: float = 0.25
    retries: int = 2
    fallback_radius: int = 1

    def __post_init__(self) -> None:
        check_window(self)
        if min(self.min_contrast, self.noise_floor, self.retries, self.fallback_radius) < 0:
            raise ConfigError("contrast settings must not be negative", found=self)


@register_initialization("contrast", ContrastSettings)
def initialize_contrast(
    image: npt.NDArray[np.uint8], points: IntArray, settings: ContrastSettings
) -> InitialLabels:
    """The local contrast region at each point; a small square where there is none."""
    half = settings.window // 2
    label = partial(_contrast_region, settings=settings)
    return label_windows(image, points, (half, half), label, settings.fallback_radius)


@dataclass(frozen=True)
class LocalContrast:
    """Peak and background around a point, in gray levels, and where in the window the peak is, (y, x)."""

    peak: float
    background: float
    peak_at: tuple[int, int]


def local_contrast(
    window: npt.NDArray[np.float32], y: int, x: int, settings: ContrastSettings
) -> LocalContrast | None:
    """The contrast at (y, x) of a window [h, w]; None where there is less than `min_contrast`, or none."""
    top, left = max(y - settings.peak_radius, 0), max(x - settings.peak_radius, 0)
    near = window[top : y + settings.peak_radius + 1, left : x + settings.peak_radius + 1]
    at = np.unravel_index(int(near.argmax()), near.shape)
    peak_at = (int(at[0]) + top, int(at[1]) + left)
    peak = float(window[peak_at])
    background = float(np.percentile(window, settings.percentile))
    if peak <= background or peak - background < settings.min_contrast:
        return None
    return LocalContrast(peak, background, peak_at)


def _contrast_region(
    pixels: npt.NDArray[np.uint8], y: int, x: int, settings: ContrastSettings
) -> BoolArray | None:
    """The region at (y, x), or None where there is no contrast or no boundary inside the window."""
    window = pixels.astype(np.float32)
    found = local_contrast(window, y, x, settings)
    if found is None:
        return None
    peak, background, peak_at = found.peak, found.background, found.peak_at
    fraction = settings.fraction
    for _ in range(settings.retries + 1):
        threshold = background + fraction * (peak - background)
        region = region_above(window, threshold, (y, x), peak_at, settings.connectivity)
        if settings.noise_floor > 0.0:
            floor = _noise_floor(window[~region], settings.noise_floor)
            if floor >= peak:
                return None
            if floor > threshold:
                region = region_above(window, floor, (y, x), peak_at, settings.connectivity)
        if region.mean() <= settings.max_share:
            return region
        fraction = (1.0 + fraction) / 2.0
    return None


def region_above(
    window: npt.NDArray[np.float32],
    threshold: float,
    point: tuple[int, int],
    peak: tuple[int, int],
    connectivity: int,
) -> BoolArray:
    """The connected region above the threshold that holds the point or, where it is too dark, the peak."""
    _, labels = label_mask(window > threshold, connectivity)
    return labels == (labels[point] or labels[peak])


def _noise_floor(ring: npt.NDArray[np.float32], k: float) -> float:
    """Median + k·σ of the pixels outside the region, σ by the median absolute deviation."""
    if ring.size == 0:
        return np.inf
    median = float(np.median(ring))
    return median + k * _MAD_TO_SIGMA * float(np.median(np.abs(ring - median)))
