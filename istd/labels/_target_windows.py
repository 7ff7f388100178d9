"""Windows around single targets: what a boundary fraction cuts in, and what kind of target it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._regions import BoolArray
from ._checks import IntArray
from ._reconstruct import FloatArray, reconstruct
from .contrast import ContrastSettings, local_contrast, region_above

SUPPORT_FRACTIONS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""The support of a target is its region at the lowest of these that leaves the window a background."""

TRAITS = ("log contrast", "log size")
"""What tells one kind of target from another; the columns of `TargetWindows.traits`."""


@dataclass(frozen=True)
class TargetWindows:
    """N targets, each in the middle of a window of side S.

    Attributes:
        image: float32 [N, S, S], gray levels; the background's where the window leaves the image.
        level: float32 [N, S, S], the highest gray level at which a pixel is connected to the target's point
            or peak. So {level > threshold} is the connected region at that threshold, for every threshold.
        background, peak: float32 [N], B and P.
        support: bool [N, S, S], where the target may be.
        counted: bool [N, S, S], pixels that a loss looks at: in the image, and no other target's.
        traits: float64 [N, 2], see `TRAITS`; the size is that of the region at the prior fraction.
        owner: int64 [N, 2], the image and the point in it.
    """

    image: FloatArray
    level: FloatArray
    background: FloatArray
    peak: FloatArray
    support: BoolArray
    counted: BoolArray
    traits: npt.NDArray[np.float64]
    owner: IntArray

    def __len__(self) -> int:
        return len(self.peak)


def cut_targets(
    images: Sequence[npt.NDArray[np.uint8]],
    points: Sequence[IntArray],
    settings: ContrastSettings,
) -> TargetWindows:
    """The window of every point that has contrast (`local_contrast`), in the order of images and points.

    Args:
        images: uint8 [H, W] each.
        points: int64 [K, 2] each, rows (y, x) within the image.
        settings: side of the window, how peak and background are measured, and the prior fraction.
    """
    rows: list[dict[str, Any]] = []
    for number, (image, where) in enumerate(zip(images, points, strict=True)):
        for index in range(len(where)):
            row = _cut(image, where, index, settings)
            if row is not None:
                rows.append({**row, "owner": (number, index)})
    side = settings.window
    shapes = {"image": (side, side), "level": (side, side), "background": (), "peak": ()}
    columns: dict[str, Any] = {
        name: np.array([row[name] for row in rows], np.float32).reshape(-1, *shape)
        for name, shape in shapes.items()
    }
    for name in ("support", "counted"):
        columns[name] = np.array([row[name] for row in rows], np.bool_).reshape(-1, side, side)
    columns["traits"] = np.array([row["traits"] for row in rows], np.float64).reshape(-1, len(TRAITS))
    columns["owner"] = np.array([row["owner"] for row in rows], np.int64).reshape(-1, 2)
    return TargetWindows(**columns)


def cut_masks(
    masks: Sequence[npt.NDArray[Any]], points: Sequence[IntArray], targets: TargetWindows
) -> BoolArray:
    """The truth in the window of each target, bool [N, S, S], False outside of the image."""
    side = targets.level.shape[-1]
    truth = np.zeros(targets.level.shape, np.bool_)
    for window, (number, index) in zip(truth, targets.owner.tolist(), strict=True):
        mask = np.asarray(masks[number]) != 0
        inside, placed, _ = _window(mask.shape, points[number][index], side)
        window[placed] = mask[inside]
    return truth


def _window(
    shape: tuple[int, ...], point: npt.NDArray[np.int64], side: int
) -> tuple[tuple[slice, slice], tuple[slice, slice], tuple[int, int]]:
    """(what of the image lies in the window, where in the window it lies, the point in that part)."""
    inside, placed, at = [], [], []
    for position, length in zip(point.tolist(), shape, strict=True):
        start = position - side // 2
        low, high = max(start, 0), min(start + side, length)
        inside.append(slice(low, high))
        placed.append(slice(low - start, high - start))
        at.append(position - low)
    return (inside[0], inside[1]), (placed[0], placed[1]), (at[0], at[1])


def _cut(
    image: npt.NDArray[np.uint8], points: IntArray, index: int, settings: ContrastSettings
) -> dict[str, Any] | None:
    """The columns of one target, or None where there is no contrast to cut in."""
    inside, placed, point = _window(image.shape, points[index], settings.window)
    part = image[inside].astype(np.float32)
    found = local_contrast(part, *point, settings)
    if found is None:
        return None
    contrast = found.peak - found.background

    def region(fraction: float) -> BoolArray:
        threshold = found.background + fraction * contrast
        return region_above(part, threshold, point, found.peak_at, settings.connectivity)

    regions = (region(fraction) for fraction in SUPPORT_FRACTIONS)
    support = next((one for one in regions if one.mean() <= settings.max_share), None)
    if support is None:
        return None
    seeds = np.full_like(part, -np.inf)
    for seed in (point, found.peak_at):
        seeds[seed] = part[seed]
    side = settings.window
    row: dict[str, Any] = {
        "image": np.full((side, side), found.background, np.float32),
        "level": np.full((side, side), -np.inf, np.float32),
        "support": np.zeros((side, side), np.bool_),
        "counted": np.zeros((side, side), np.bool_),
        "background": found.background,
        "peak": found.peak,
        "traits": (np.log(contrast), np.log(region(settings.fraction).sum())),
    }
    row["image"][placed] = part
    row["level"][placed] = reconstruct(part, seeds, settings.connectivity)
    row["support"][placed] = support
    row["counted"][placed] = _nearest_point(inside, points) == index
    row["level"] = np.maximum(row["level"], part.min())
    return row


def _nearest_point(inside: tuple[slice, slice], points: IntArray) -> npt.NDArray[np.int64]:
    """Which point of the image each pixel of a window is nearest to, the first one at a tie, [h, w]."""
    y, x = np.mgrid[inside]
    distance = [(y - py) ** 2 + (x - px) ** 2 for py, px in points.tolist()]
    return np.argmin(distance, axis=0)
