"""One synthetic infrared image, with everything known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TypeVar

import numpy as np

from ...errors import ConfigError
from ..points import centroid_points
from .backgrounds import BACKGROUNDS
from .sensor import blur, sensor_noise
from .targets import KINDS, draw_profile

_TRIES = 40
_GAP = 3
_RING = 10
_WHITE = 250.0


@dataclass(frozen=True)
class SceneSettings:
    """What synthetic scenes are made of. The defaults follow SIRST v1 (medians and tails, as measured).

    Attributes:
        backgrounds: name → relative frequency; names of `BACKGROUNDS`.
        kinds: kind of target → relative frequency; names of `KINDS`.
        counts: number of targets → relative frequency; 0 is an empty image.
        area_median: median mask area in pixels.
        area_spread: standard deviation of the logarithm of the area.
        area_limit: largest mask area as a part of the image.
        contrast_median: median contrast; the contrast is the target's peak above its background before noise
            and clipping, in gray levels.
        contrast_spread: standard deviation of the logarithm of the contrast.
        contrast_range: smallest and largest contrast.
        min_scr: the contrast is at least this many standard deviations of the background around the target.
        boundary: part of the peak above which a pixel belongs to the mask.

    Raises:
        ConfigError: an unknown name, a frequency below 0, or a number out of its range.
    """

    backgrounds: Mapping[str, float] = field(
        default_factory=lambda: {"sky": 0.3, "cloud": 0.35, "sea": 0.15, "ground": 0.2}
    )
    kinds: Mapping[str, float] = field(
        default_factory=lambda: {"point": 0.15, "blob": 0.35, "streak": 0.1, "irregular": 0.4}
    )
    counts: Mapping[int, float] = field(
        default_factory=lambda: {0: 0.05, 1: 0.79, 2: 0.11, 3: 0.03, 4: 0.01, 6: 0.01}
    )
    area_median: float = 22.0
    area_spread: float = 0.9
    area_limit: float = 0.01
    contrast_median: float = 88.0
    contrast_spread: float = 0.6
    contrast_range: tuple[float, float] = (20.0, 220.0)
    min_scr: float = 3.0
    boundary: float = 0.33

    def __post_init__(self) -> None:
        for name, known in (("backgrounds", set(BACKGROUNDS)), ("kinds", set(KINDS)), ("counts", None)):
            table = getattr(self, name)
            unknown = set(table) - known if known else {key for key in table if key < 0}
            if unknown or not table or min(table.values()) < 0 or sum(table.values()) <= 0:
                raise ConfigError(
                    f"{name} is not a table of relative frequencies",
                    found=dict(table),
                    expected="frequencies of " + (", ".join(sorted(known)) if known else "counts from 0 on"),
                )
        low, high = self.contrast_range
        for wrong, text in (
            (not 0 < low <= high, "0 < contrast_range[0] ≤ contrast_range[1]"),
            (not 0 < self.boundary < 1, "0 < boundary < 1"),
            (not 0 < self.area_limit < 1, "0 < area_limit < 1"),
            (min(self.area_median, self.contrast_median) <= 0, "medians above 0"),
            (min(self.area_spread, self.contrast_spread, self.min_scr) < 0, "spreads and min_scr from 0 on"),
        ):
            if wrong:
                given = {one.name: getattr(self, one.name) for one in fields(self)}
                raise ConfigError("a scene setting is out of its range", found=given, expected=text)


@dataclass(frozen=True)
class Target:
    """One rendered target.

    Attributes:
        kind: a key of `KINDS`.
        y: row of its point.
        x: column of its point.
        area: pixels of its mask.
        contrast: its peak above the background before noise and clipping, in gray levels.
    """

    kind: str
    y: int
    x: int
    area: int
    contrast: float


@dataclass(frozen=True)
class Scene:
    """One synthetic image: `image` = clip(round(`background` + `signal` + `noise`), 0, 255).

    Attributes:
        image: uint8 [H, W].
        mask: bool [H, W]: for each target, where its signal is at least `boundary` of its peak.
        points: int64 [N, 2], rows (y, x), one per target, as `centroid_points(mask)`.
        kind: name of the background.
        background: float64 [H, W], gray levels after the optics.
        signal: float64 [H, W], what the targets add, in gray levels.
        noise: float64 [H, W], what the sensor adds, in gray levels.
        targets: one for each point, in the same order.
    """

    image: np.ndarray
    mask: np.ndarray
    points: np.ndarray
    kind: str
    background: np.ndarray
    signal: np.ndarray
    noise: np.ndarray
    targets: tuple[Target, ...]


def make_scene(
    rng: np.random.Generator | int,
    size: tuple[int, int] = (256, 256),
    settings: SceneSettings | None = None,
) -> Scene:
    """Draw one scene.

    Targets are put where they can be seen. Their contrast is as drawn, but at least `min_scr` times the
    deviation around them, and at most what leaves more than half of the profile below white. They are whole,
    inside the frame, and apart from each other. Where a crowded or saturated scene has no such place, it has
    fewer targets than it asked for.

    Args:
        rng: a generator, or the seed of a new one; it decides everything.
        size: (height, width) in pixels, at least 32 each.
        settings: what to draw; the defaults if None.

    Raises:
        ConfigError: the size is too small.
    """
    if min(size) < 32:
        raise ConfigError("the scene is too small", found=size, expected="at least 32 × 32 pixels")
    rng = np.random.default_rng(rng)
    settings = settings or SceneSettings()
    kind = _choose(rng, settings.backgrounds)
    background = blur(BACKGROUNDS[kind](rng, size), rng.uniform(0.5, 1.2))
    # An image that is all white has no room for a target, and a detector has an offset above 0.
    background -= max(0.0, float(np.quantile(background, 0.3)) - 175)
    background += max(0.0, 4 - float(np.quantile(background, 0.05)))
    signal, labels = np.zeros(size), np.zeros(size, np.int32)
    placed: list[tuple[str, int, float]] = []
    for _ in range(_choose(rng, settings.counts)):
        _place(rng, settings, background, signal, labels, placed)
    noise = sensor_noise(rng, size)
    image = np.clip(np.rint(background + signal + noise), 0, 255).astype(np.uint8)
    mask = labels > 0
    points = centroid_points(mask)
    targets = []
    for y, x in points.tolist():
        target_kind, area, contrast = placed[labels[y, x] - 1]
        targets.append(Target(target_kind, y, x, area, contrast))
    return Scene(image, mask, points, kind, background, signal, noise, tuple(targets))


_T = TypeVar("_T")


def _choose(rng: np.random.Generator, table: Mapping[_T, float]) -> _T:
    weights = np.array(list(table.values()), np.float64)
    return list(table)[rng.choice(len(table), p=weights / weights.sum())]


def _place(
    rng: np.random.Generator,
    settings: SceneSettings,
    background: np.ndarray,
    signal: np.ndarray,
    labels: np.ndarray,
    placed: list[tuple[str, int, float]],
) -> None:
    """Draw one target and add it to `signal`, `labels` and `placed`, if there is a place for it."""
    height, width = background.shape
    kind = _choose(rng, settings.kinds)
    low, high = KINDS[kind].areas
    high = min(high, max(low, settings.area_limit * height * width))
    area = float(
        np.clip(settings.area_median * np.exp(settings.area_spread * rng.standard_normal()), low, high)
    )
    profile, mask = draw_profile(rng, kind, area, settings.boundary)
    contrast = settings.contrast_median * np.exp(settings.contrast_spread * rng.standard_normal())
    reach = profile.shape[0] // 2
    rows, columns = (np.flatnonzero(mask.any(axis)) - reach for axis in (1, 0))
    for _ in range(_TRIES):
        y = int(rng.integers(1 - rows[0], height - 1 - rows[-1]))
        x = int(rng.integers(1 - columns[0], width - 1 - columns[-1]))
        box = y + rows[0], y + rows[-1] + 1, x + columns[0], x + columns[-1] + 1
        if _around(labels, box, _GAP).any():
            continue
        surroundings = _around(background, box, _RING)
        least = max(settings.contrast_range[0], settings.min_scr * float(surroundings.std()))
        most = min(settings.contrast_range[1], (_WHITE - float(surroundings.mean())) / 0.6)
        if least <= most:
            contrast = float(np.clip(contrast, least, most))
            break
    else:
        return
    # The faint outskirts of the profile may reach over the border; the mask does not.
    top, left = y - reach, x - reach
    inside = (
        slice(max(0, -top), min(profile.shape[0], height - top)),
        slice(max(0, -left), min(profile.shape[1], width - left)),
    )
    place = (
        slice(top + inside[0].start, top + inside[0].stop),
        slice(left + inside[1].start, left + inside[1].stop),
    )
    signal[place] += contrast * profile[inside]
    placed.append((kind, int(mask.sum()), contrast))
    labels[place][mask[inside]] = len(placed)


def _around(field: np.ndarray, box: tuple[int, int, int, int], margin: int) -> np.ndarray:
    """The part of `field` in `box` (top, bottom, left, right) and `margin` pixels on each side."""
    top, bottom, left, right = box
    return field[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin]
