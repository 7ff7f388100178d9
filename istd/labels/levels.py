"""First labels that say how sure they are: the region at the point, averaged over likely boundary levels.

How far a target reaches is a convention of whoever draws it. A person draws as far as something can be seen,
which is neither a fixed share of the contrast nor a fixed number of gray levels, but close to the sum of
both: B + visible + fraction·(P − B), with the peak P and the background B. A faint target is cut at a higher
share of its contrast than a bright one, and no kind is drawn too large or too small throughout.

Around this level the true one stays uncertain. The label is the mean of the regions at several levels, each
weighted by a normal distribution around the expected level and by the strength of the edge that the region's
boundary runs along. So a pixel's value is the probability that it belongs to the target, and label > ½ is the
median region.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from .._regions import BoolArray
from ..errors import ConfigError
from ._checks import IntArray
from ._initial import InitialLabels, register_initialization
from ._point_windows import label_windows
from ._reconstruct import FloatArray, reconstruct
from ._window_checks import check_window

HIGHEST_FRACTION = 0.7  # share of the contrast above which a boundary would leave nothing of a blurred point
_REACH = 2.0  # how many `spread`s the levels reach to both sides
_SQUARE = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class LevelsSettings:
    """Where boundaries are expected, and how surely; lengths in pixels, levels in shares of the contrast.

    The defaults are round figures chosen on the training split of SIRST v1; `calibrate` adapts `fraction` to
    a few trusted masks.

    Attributes:
        fraction: the part of the expected boundary level that grows with the contrast, at most 0.7; the
            expected level itself is held at 0.7 where a target is so faint that it would be higher.
        visible: the part that does not: the step that is just noticed, in gray levels of 256.
        spread: standard deviation of the true level around the expected one; 0 trusts the expected one.
        edge: exponent of the mean gradient along a region's boundary in the region's weight; 0 ignores edges.
        levels: how many levels are averaged, over ±2 `spread`.
        soft: probabilities if True; 1 where they exceed ½, else 0, if False.
        window: odd side of the window, cut at the image's border.
        peak_radius: the peak is looked for within this Chebyshev distance of the point.
        percentile: of the window, taken as the background until a first region is known.
        gap, ring: the background then is the median of a ring of this width, this far from the region; ring=0
            stays with the percentile.
        connectivity: 4 or 8.
        min_contrast: the point failed if P − B is less, in gray levels.
        max_share: a region that covers more of the window than this has no boundary of its own.
        retries: how often levels are tried half-way up to the peak where no region has a boundary.
        fallback_radius: a failed point is labelled by the square of this radius (0: the point alone).
    """

    fraction: float = 0.15
    visible: float = 9.0
    spread: float = 0.1
    edge: float = 1.5
    levels: int = 9
    soft: bool = True
    window: int = 33
    peak_radius: int = 2
    percentile: float = 65.0
    gap: int = 1
    ring: int = 1
    connectivity: int = 8
    min_contrast: float = 1.0
    max_share: float = 0.25
    retries: int = 2
    fallback_radius: int = 1

    def __post_init__(self) -> None:
        check_window(self)
        if self.fraction > HIGHEST_FRACTION:
            raise ConfigError(
                "no boundary is expected so near to the peak",
                found=f"fraction={self.fraction:g}",
                expected=f"at most {HIGHEST_FRACTION:g}",
                fix="lower --set contrast_fraction, or start from --set label_init=contrast",
            )
        if self.levels < 1:
            raise ConfigError("labels need at least one level", found=self.levels)
        lengths = (self.gap, self.ring, self.retries, self.fallback_radius)
        if min(self.visible, self.spread, self.edge, self.min_contrast, *lengths) < 0:
            raise ConfigError("settings of the levels must not be negative", found=self)


@register_initialization("levels", LevelsSettings)
def initialize_levels(
    image: npt.NDArray[np.uint8], points: IntArray, settings: LevelsSettings
) -> InitialLabels:
    """Soft regions around the points; a small square where a point has no contrast or no boundary."""
    half = settings.window // 2
    found = label_windows(
        image, points, (half, half), partial(_soft_region, settings=settings), settings.fallback_radius
    )
    return found if settings.soft else InitialLabels((found.mask > 0.5).astype(np.float32), found.succeeded)


def _soft_region(
    pixels: npt.NDArray[np.uint8], y: int, x: int, settings: LevelsSettings
) -> FloatArray | None:
    """The probability of each pixel to belong to the target at (y, x); None where there is no target."""
    window = pixels.astype(np.float32)
    r = settings.peak_radius
    top, left = max(y - r, 0), max(x - r, 0)
    near = window[top : y + r + 1, left : x + r + 1]
    at = np.unravel_index(int(near.argmax()), near.shape)
    peak = float(near[at])
    background = float(np.percentile(window, settings.percentile))
    if peak - background < max(settings.min_contrast, 1e-3):
        return None
    reach = _connected_level(window, ((y, x), (int(at[0]) + top, int(at[1]) + left)), settings.connectivity)
    if settings.ring > 0:
        first = background + _expected(peak - background, settings) * (peak - background)
        background = _ring_median(window, reach > first, background, settings)
        if peak - background < max(settings.min_contrast, 1e-3):
            return None
    contrast = peak - background
    expected = _expected(contrast, settings)
    for _ in range(settings.retries + 1):
        offsets = np.linspace(-_REACH, _REACH, settings.levels) if settings.levels > 1 else np.zeros(1)
        shares = np.clip(expected + settings.spread * offsets, 0.0, 0.95)
        thresholds = (background + shares * contrast).astype(np.float32)
        weights = np.exp(-0.5 * offsets**2) * _edge_strength(window, reach, thresholds) ** settings.edge
        regions = reach > thresholds[:, None, None]
        weights[regions.mean(axis=(1, 2)) > settings.max_share] = 0.0
        if weights.sum() > 0.0:
            mean = np.tensordot((weights / weights.sum()).astype(np.float32), regions.astype(np.float32), 1)
            return np.minimum(mean, np.float32(1.0))  # rounding must not lead out of [0, 1]
        expected = (1.0 + expected) / 2.0
    return None


def _expected(contrast: float, settings: LevelsSettings) -> float:
    """Where the boundary is expected, as a share of the contrast."""
    return min(settings.fraction + settings.visible / contrast, HIGHEST_FRACTION)


def _connected_level(window: FloatArray, seeds: tuple[tuple[int, int], ...], connectivity: int) -> FloatArray:
    """The highest level at which each pixel is connected to a seed, [h, w]."""
    level = np.full_like(window, window.min())
    for seed in seeds:
        level[seed] = window[seed]
    return reconstruct(window, level, connectivity)


def _ring_median(window: FloatArray, region: BoolArray, otherwise: float, settings: LevelsSettings) -> float:
    """The median around a region; `otherwise` where the region has no boundary or fills the window."""
    if region.mean() > settings.max_share:
        return otherwise
    near = cv2.dilate(region.astype(np.uint8), _SQUARE, iterations=settings.gap) if settings.gap else region
    far = cv2.dilate(np.asarray(near, np.uint8), _SQUARE, iterations=settings.ring)
    ring = window[far.astype(np.bool_) & ~np.asarray(near, np.bool_)]
    return float(np.median(ring)) if ring.size else otherwise


def _edge_strength(window: FloatArray, reach: FloatArray, thresholds: FloatArray) -> npt.NDArray[np.float64]:
    """The mean gradient along the boundary of each region {reach > threshold}, the largest being 1."""
    gradient = np.hypot(cv2.Sobel(window, cv2.CV_32F, 1, 0), cv2.Sobel(window, cv2.CV_32F, 0, 1))
    low, high = cv2.erode(reach, _SQUARE), cv2.dilate(reach, _SQUARE)
    levels = thresholds[:, None, None]
    boundary = (low <= levels) & (high > levels)
    strength = (boundary * gradient).sum(axis=(1, 2)) / np.maximum(boundary.sum(axis=(1, 2)), 1)
    return (strength / max(float(strength.max()), 1e-6)).astype(np.float64)
