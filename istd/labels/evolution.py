"""Label evolution: every few epochs a label moves half-way to the prediction around its targets.

Ying et al., "Mapping Degeneration Meets Label Evolution: Learning Infrared Small Target Detection with
Single Point Supervision", CVPR 2023 (LESPS, arXiv 2304.01484), Eq. 2–4; with the decay of the old label
outside of the kept regions that PAL (arXiv 2412.11154) adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from .._regions import check_connectivity, find_regions, flat_positions, label_mask
from ..errors import ConfigError
from ._checks import bands, check_points, check_same_shape, check_unit_map

Lock = Literal["points", "saturated"]
Meet = Literal["core", "label"]
Rise = Literal["average", "raise"]
_Float = TypeVar("_Float", np.float32, np.float64)


@dataclass(frozen=True)
class EvolutionSettings:
    """How a label evolves; the defaults are the reference's but for the lock.

    A label region of area A, around whose centroid the prediction has the maximum m, keeps predictions above
    T = m·[t_b + k·(1 − t_b)·A / (max_area·H·W)].

    Attributes:
        t_b: T_b, the threshold of a region without area, as a share of m.
        k: how fast the threshold rises with the region's area.
        max_area: the area, as a share of the image, at which the threshold has risen by k of the way from t_b
            to m. As in the reference it goes on rising: with k = 1/2 a region of twice this area or more (in
            an image of 96 × 96 of 28 px) keeps nothing and decays, until it is small again.
        window: odd side of the window around the centroid in which predictions are looked at, px.
        core: odd side of the square around the centroid that a predicted region must touch, px.
        meet: what a predicted region must touch to be kept: "core", as in PAL, or "label", any label region,
            as in LESPS.
        rise: what a kept pixel becomes: "average", (label + prediction)/2, as both papers have it, or
            "raise", the average where it is higher than the label, as LESPS's public code has it: labels then
            never fall.
        decay: factor on the old label outside of the kept regions; 1 keeps it (LESPS).
        label_threshold: a label above it belongs to a region.
        connectivity: 4 or 8, for label regions and predicted regions.
        lock: "points" keeps only the annotated pixels at 1. "saturated" keeps every pixel that is exactly 1,
            as the reference does; a label stored in 8 bits then never shrinks where it once reached 255.
    """

    t_b: float = 0.5
    k: float = 0.5
    max_area: float = 0.0015
    window: int = 33
    core: int = 3
    meet: Meet = "core"
    rise: Rise = "average"
    decay: float = 0.97
    label_threshold: float = 0.5
    connectivity: int = 8
    lock: Lock = "points"

    def __post_init__(self) -> None:
        check_connectivity(self.connectivity)
        if self.lock not in ("points", "saturated"):
            raise ConfigError("unknown label lock", found=self.lock, expected="points or saturated")
        if self.meet not in ("core", "label"):
            raise ConfigError("unknown rule for predicted regions", found=self.meet, expected="core or label")
        if self.rise not in ("average", "raise"):
            raise ConfigError("unknown way to move labels", found=self.rise, expected="average or raise")
        if not (0.0 <= self.t_b <= 1.0 and 0.0 <= self.decay <= 1.0 and 0.0 <= self.label_threshold < 1.0):
            raise ConfigError(
                "t_b, decay or label_threshold is out of range", found=self, expected="within [0, 1]"
            )
        if self.k < 0.0 or self.max_area <= 0.0:
            raise ConfigError(
                "k must not be negative and max_area must be positive", found=(self.k, self.max_area)
            )
        if (
            self.window < 1
            or self.core < 1
            or self.window % 2 == 0
            or self.core % 2 == 0
            or self.core > self.window
        ):
            raise ConfigError("window and core need odd sides, core ≤ window", found=(self.window, self.core))


def evolve(
    pred: npt.NDArray[np.floating[Any]],
    label: npt.NDArray[_Float],
    points: npt.ArrayLike,
    settings: EvolutionSettings | None = None,
) -> npt.NDArray[_Float]:
    """One evolution step of one image's label.

    Args:
        pred: float [H, W], probabilities within [0, 1] at the label's size.
        label: float32 or float64 [H, W], within [0, 1].
        points: integer [N, 2], rows (y, x), the annotated pixels.
        settings: the defaults if None.

    Returns:
        A new label of the label's dtype: (label + pred)/2 inside the kept regions (not below the label if
        `rise` is "raise"), decay·label outside, then the lock. Cost: two passes over the image, the rows
        that have a label, and a window per region.

    Raises:
        LabelError: sizes differ or values lie outside [0, 1]; DataError: a point lies outside the image.
    """
    settings = settings if settings is not None else EvolutionSettings()
    check_unit_map(pred, "prediction")
    highs = check_unit_map(label, "label")
    check_same_shape(pred, label, "the prediction and the label")
    where = check_points(points, label.shape)

    labelled, evolved = np.zeros(label.shape, np.bool_), np.zeros(label.shape, label.dtype)
    filled = np.flatnonzero(highs)  # a row without label stays without
    for band in bands(filled.size, max(label.shape[1], 1) * label.itemsize):
        rows = filled[band]
        part = label[rows]
        labelled[rows] = part > settings.label_threshold
        evolved[rows] = part * label.dtype.type(settings.decay)
    kept = flat_positions(_kept(pred, labelled, settings))  # few pixels: flat positions are cheapest
    moved = (label.reshape(-1)[kept] + pred.reshape(-1)[kept].astype(label.dtype)) / 2
    evolved.reshape(-1)[kept] = (
        moved if settings.rise == "average" else np.maximum(moved, label.reshape(-1)[kept])
    )
    if settings.lock == "saturated":
        above = flat_positions(labelled)  # few, and 1 is above any threshold
        evolved.reshape(-1)[above[label.reshape(-1)[above] == 1.0]] = 1.0
    else:
        evolved[where[:, 0], where[:, 1]] = 1.0
    return evolved


def kept_regions(
    pred: npt.NDArray[np.floating[Any]], label: npt.NDArray[np.floating[Any]], settings: EvolutionSettings
) -> npt.NDArray[np.bool_]:
    """Where the label will follow the prediction: bool [H, W], the union over the label's regions."""
    return _kept(pred, label > settings.label_threshold, settings)


def _kept(
    pred: npt.NDArray[np.floating[Any]], labelled: npt.NDArray[np.bool_], settings: EvolutionSettings
) -> npt.NDArray[np.bool_]:
    height, width = labelled.shape
    kept = np.zeros(labelled.shape, np.bool_)
    regions = find_regions(labelled, settings.connectivity)
    full_area = settings.max_area * (height * width)
    half = settings.window // 2
    for area, (row, column) in zip(regions.areas.tolist(), regions.centroids.tolist(), strict=True):
        y, x = int(row), int(column)  # truncated, as in the reference
        top, left = max(y - half, 0), max(x - half, 0)
        window = np.s_[top : y + half + 1, left : x + half + 1]
        near = pred[window]
        # The same order of operations as the reference, in the prediction's precision: a pixel may equal T.
        peak = near.max()
        start = peak * settings.t_b
        threshold = start + settings.k * (peak - start) * (area / full_area)
        core = settings.meet == "core"
        wanted = _core(near.shape, y - top, x - left, settings) if core else labelled[window]
        kept[window] |= _touching(near > threshold, wanted, settings)
    return kept


def _core(shape: tuple[int, ...], y: int, x: int, settings: EvolutionSettings) -> npt.NDArray[np.bool_]:
    """The core around (y, x) as a mask of a window."""
    mask = np.zeros(shape, np.bool_)
    r = settings.core // 2
    mask[max(y - r, 0) : y + r + 1, max(x - r, 0) : x + r + 1] = True
    return mask


def _touching(
    above: npt.NDArray[np.bool_], wanted: npt.NDArray[np.bool_], settings: EvolutionSettings
) -> npt.NDArray[np.bool_]:
    """The connected regions of a window's mask that meet the wanted pixels."""
    if not above.any():
        return above
    count, labels = label_mask(above, settings.connectivity)
    keep = np.zeros(count + 1, np.bool_)
    keep[labels[wanted]] = True
    keep[0] = False
    return keep[labels]


def to_uint8(label: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
    """A label [H, W] in 8 bits as the reference stores it: 255·label, rounded half to even, cut to 0…255."""
    return np.clip(np.rint(label * 255), 0, 255).astype(np.uint8)


def from_uint8(stored: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The float64 label within [0, 1] of one stored in 8 bits."""
    return stored / 255
