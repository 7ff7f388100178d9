"""Hard-sample mining: which waiting images are predicted well enough to enter the training pool.

Yu et al., "From Easy to Hard: Progressive Active Learning Framework for Infrared Small Target Detection with
Single Point Supervision", ICCV 2025 (PAL, arXiv 2412.11154), its enhancement phase. "Region" means what an
external contour encloses: an 8-connected region with its holes filled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._regions import BoolArray, fill_holes, label_mask
from ..errors import ConfigError
from ._checks import check_points


@dataclass(frozen=True)
class MiningSettings:
    """The rule by which a waiting image enters, and how it loosens.

    Attributes:
        first_bound: largest share of missed points when mining starts.
        last_bound: the same when it ends.
        stop: share of all epochs after which no image enters any more.
        false_bound: largest number of false regions per point.
        unmatched: "wait" keeps an image waiting while none of its points is met by a prediction: it would
            enter with its points alone, and an empty prediction would count as understood. "admit" follows
            the bound alone, as the reference does, which lets such images in once the bound reaches 1.
        false_regions: "unmatched" counts predicted regions that meet no point; "difference" counts predicted
            regions less met points, as the reference does (fewer, where one region covers two points).
        schedule: "bounded" reaches last_bound exactly at the end; "reference" runs one epoch ahead and over.
    """

    first_bound: float = 0.2
    last_bound: float = 1.0
    stop: float = 0.8
    false_bound: float = 5.0
    unmatched: Literal["wait", "admit"] = "wait"
    false_regions: Literal["unmatched", "difference"] = "unmatched"
    schedule: Literal["bounded", "reference"] = "bounded"

    def __post_init__(self) -> None:
        if self.unmatched not in ("wait", "admit"):
            raise ConfigError(
                "unknown rule for unmatched images", found=self.unmatched, expected="wait or admit"
            )
        if self.false_regions not in ("unmatched", "difference"):
            raise ConfigError(
                "unknown count of false regions", found=self.false_regions, expected="unmatched or difference"
            )
        if self.schedule not in ("bounded", "reference"):
            raise ConfigError("unknown mining schedule", found=self.schedule, expected="bounded or reference")
        if not (
            0.0 <= self.first_bound <= self.last_bound and 0.0 < self.stop <= 1.0 and self.false_bound >= 0.0
        ):
            raise ConfigError(
                "the mining bounds make no sense", found=self, expected="0 ≤ first ≤ last, 0 < stop ≤ 1"
            )


REFERENCE_MINING = MiningSettings(unmatched="admit", false_regions="difference", schedule="reference")
"""The public code's rule, faults included, for comparison with it."""


@dataclass(frozen=True)
class Agreement:
    """How a prediction meets an image's points.

    Attributes:
        points: regions of annotated pixels (points that touch are one).
        missed: those that no predicted region meets.
        regions: predicted regions.
        unmatched: those that meet no point.
    """

    points: int
    missed: int
    regions: int
    unmatched: int


def compare_with_points(points: npt.ArrayLike, pred_mask: npt.NDArray[Any]) -> Agreement:
    """Count missed points and false regions of a binary prediction [H, W] (nonzero is target).

    Raises:
        DataError: a point, row (y, x), lies outside the prediction.
    """
    annotated = _point_regions(points, pred_mask.shape)
    predicted = fill_holes(pred_mask)
    num_points, point_labels = label_mask(annotated)
    num_regions, region_labels = label_mask(predicted)
    common = annotated & predicted
    met = len(np.unique(point_labels[common]))
    matched = len(np.unique(region_labels[common]))
    return Agreement(num_points, num_points - met, num_regions, num_regions - matched)


def is_selected(
    points: npt.ArrayLike,
    pred_mask: npt.NDArray[Any],
    missed_bound: float,
    false_bound: float | None = None,
    settings: MiningSettings | None = None,
) -> bool:
    """Whether a waiting image may enter the training pool.

    Args:
        points: integer [N, 2], rows (y, x). An image without points always enters.
        pred_mask: [H, W], nonzero where a target is predicted.
        missed_bound: largest share of missed points; see `missed_bound`.
        false_bound: largest number of false regions per point; that of `settings` if None.
        settings: the defaults if None.

    Raises:
        DataError: a point lies outside the prediction.
    """
    settings = settings if settings is not None else MiningSettings()
    false_bound = settings.false_bound if false_bound is None else false_bound
    counts = compare_with_points(points, pred_mask)
    if counts.points == 0:
        return True
    met = counts.points - counts.missed
    if settings.unmatched == "wait" and met == 0:
        return False
    false = counts.unmatched if settings.false_regions == "unmatched" else counts.regions - met
    return counts.missed / counts.points <= missed_bound and false / counts.points <= false_bound


def merge_with_points(pred_mask: npt.NDArray[Any], points: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The first label of an image that enters: its predicted regions that meet a point, and the points.

    Returns:
        float32 [H, W], 1 inside the kept regions (holes filled) and at the points, 0 elsewhere.

    Raises:
        DataError: a point lies outside the prediction.
    """
    annotated = _point_regions(points, pred_mask.shape)
    count, labels = label_mask(fill_holes(pred_mask))
    keep = np.zeros(count + 1, np.bool_)
    keep[labels[annotated]] = True
    keep[0] = False
    merged = keep[labels]
    where = check_points(points, pred_mask.shape)
    merged[where[:, 0], where[:, 1]] = True
    return merged.astype(np.float32)


def missed_bound(epoch: int, epochs: int, start_epoch: int, settings: MiningSettings | None = None) -> float:
    """The largest share of missed points at `epoch`: linear from `start_epoch` to `stop`·epochs.

    Args:
        epoch: 1-based epoch.
        epochs: how many epochs the whole training has.
        start_epoch: the last epoch before mining (PAL: 0.2·epochs).
        settings: the defaults if None.
    """
    settings = settings if settings is not None else MiningSettings()
    span = settings.stop * epochs - start_epoch
    if span <= 0:
        return settings.last_bound
    rise = settings.last_bound - settings.first_bound
    if settings.schedule == "reference":
        return settings.first_bound + (epoch - start_epoch + 1) / span * rise
    return settings.first_bound + min(max((epoch - start_epoch) / span, 0.0), 1.0) * rise


def _point_regions(points: npt.ArrayLike, shape: tuple[int, ...]) -> BoolArray:
    """The annotated pixels as a mask [H, W], with any hole they enclose filled like a contour's."""
    where = check_points(points, shape)
    mask = np.zeros(shape, np.bool_)
    mask[where[:, 0], where[:, 1]] = True
    # Fewer than four pixels enclose nothing; the common case saves a pass over the image.
    return fill_holes(mask) if len(where) >= 4 else mask
