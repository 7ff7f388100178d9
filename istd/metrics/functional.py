"""The metrics as pure functions of binary masks: counts first, ratios after.

IoU and nIoU as in Dai et al., "Asymmetric Contextual Modulation for Infrared Small Target Detection",
WACV 2021; Pd and Fa as in Li et al., "Dense Nested Attention Network", TIP 2023 (arXiv 2106.00487), in the
form that PAL uses. A ratio whose denominator is 0 is 0, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._regions import Regions, find_regions
from ..errors import DataError
from ._matching import Match, match_regions
from .convention import EmptyRule, MetricConvention

Map = npt.NDArray[Any] | Tensor


@dataclass(frozen=True)
class PixelCounts:
    """Pixels by truth and prediction.

    Attributes:
        tp, fp, fn, tn: true positives, false positives, false negatives, true negatives.
    """

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def union(self) -> int:
        """Pixels in truth or prediction."""
        return self.tp + self.fp + self.fn

    @property
    def total(self) -> int:
        """All pixels."""
        return self.union + self.tn


@dataclass(frozen=True)
class TargetCounts:
    """True targets and false alarms of one image.

    Attributes:
        targets: true targets.
        detected: those with a match.
        predicted: predicted regions.
        false_area: pixels of false alarms, as the convention counts them.
        pixels: all pixels of the image.
        matches: pairs of (true target, predicted region, centroid distance in pixels), numbered from 0 in
            raster order.
    """

    targets: int
    detected: int
    predicted: int
    false_area: int
    pixels: int
    matches: tuple[Match, ...]


def as_array(values: Map) -> npt.NDArray[Any]:
    """A map of real numbers, from whichever device and of whichever type, as an array.

    Raises:
        DataError: it holds something else, or a value that is not a number.
    """
    try:
        if isinstance(values, Tensor):
            host = values.detach().cpu()
            array = (host.float() if host.dtype == torch.bfloat16 else host).numpy()  # numpy has no bfloat16
        else:
            array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError("this is no map", found=error, expected="a tensor or array [H, W]") from error
    if array.dtype.kind not in "biuf":
        raise DataError("a map holds real numbers", found=array.dtype, expected="bool, integers or floats")
    if (
        array.dtype.kind == "f" and array.size and np.isnan(array.max())
    ):  # a maximum hands on what is no number
        raise DataError("the map has values that are not a number", fix="look at the training losses")
    return array


def binarize(values: Map, threshold: float = 0.5) -> npt.NDArray[np.bool_]:
    """A map as a mask: bool as it is, floating maps > threshold, integer masks ≠ 0.

    Raises:
        DataError: as for `as_array`.
    """
    array = as_array(values)
    if array.dtype == np.bool_:
        return array
    return array > threshold if array.dtype.kind == "f" else array != 0


def pixel_counts(pred: Map, target: Map, threshold: float = 0.5) -> PixelCounts:
    """Count the pixels of a prediction (mask or probabilities) and a mask of one shape.

    Raises:
        DataError: the shapes differ.
    """
    p, t = _pair(pred, target, threshold)
    tp = int(np.count_nonzero(p & t))
    predicted, true = int(np.count_nonzero(p)), int(np.count_nonzero(t))
    return PixelCounts(tp, predicted - tp, true - tp, p.size - predicted - true + tp)


def target_counts(pred: Map, target: Map, convention: MetricConvention | None = None) -> TargetCounts:
    """Match the targets of one image.

    Args:
        pred: [H, W] (leading dimensions of size 1 allowed), a mask or probabilities.
        target: the true mask, same shape.
        convention: the default one if None.

    Raises:
        DataError: the shapes differ, or there is more than one image.
    """
    convention = convention if convention is not None else MetricConvention()
    p, t = (_single(mask) for mask in _pair(pred, target, convention.threshold))
    predicted = find_regions(p, convention.connectivity)
    return count_regions(find_regions(t, convention.connectivity), predicted, convention)


def count_regions(true: Regions, predicted: Regions, convention: MetricConvention) -> TargetCounts:
    """`target_counts` of regions that have been found already, both in images of one size."""
    matches = match_regions(true, predicted, convention.matching, convention.distance)
    matched = predicted.areas[[match.predicted for match in matches]]
    if convention.false_area == "by_value":
        false_area = int(predicted.areas[~np.isin(predicted.areas, matched)].sum())
    else:
        false_area = int(predicted.areas.sum() - matched.sum())
    return TargetCounts(true.count, len(matches), predicted.count, false_area, true.labels.size, matches)


def iou(counts: PixelCounts) -> float:
    """Intersection over union."""
    return _ratio(counts.tp, counts.union)


def precision(counts: PixelCounts) -> float:
    """Share of predicted pixels that are true."""
    return _ratio(counts.tp, counts.tp + counts.fp)


def recall(counts: PixelCounts) -> float:
    """Share of true pixels that are predicted."""
    return _ratio(counts.tp, counts.tp + counts.fn)


def f1(counts: PixelCounts) -> float:
    """Harmonic mean of precision and recall."""
    return _ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def niou(counts: Sequence[PixelCounts], empty: EmptyRule = "zero") -> float:
    """Mean of the images' IoU; `empty` says what an image without truth and prediction counts."""
    values = [
        iou(image) if image.union else float(empty == "one")
        for image in counts
        if image.union or empty != "skip"
    ]
    return float(np.mean(values)) if values else 0.0


def probability_of_detection(counts: Sequence[TargetCounts]) -> float:
    """Pd: matched true targets / true targets, over all images."""
    return _ratio(sum(image.detected for image in counts), sum(image.targets for image in counts))


def false_alarm_rate(counts: Sequence[TargetCounts]) -> float:
    """Fa: pixels of false alarms / all pixels, over all images."""
    return _ratio(sum(image.false_area for image in counts), sum(image.pixels for image in counts))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _pair(pred: Map, target: Map, threshold: float) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    p, t = binarize(pred, threshold), binarize(target)
    if p.shape != t.shape:
        raise DataError(
            "prediction and mask differ in size", found=f"{p.shape} and {t.shape}", expected="one shape"
        )
    return p, t


def _single(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    if mask.ndim < 2 or mask.size != mask.shape[-1] * mask.shape[-2]:
        raise DataError("targets are matched image by image", found=f"shape {mask.shape}", expected="[H, W]")
    return mask.reshape(mask.shape[-2:])
