"""All metrics at many thresholds from one pass over the images: PR, ROC and Pd against Fa.

Pixels are sorted into the gaps between thresholds once; sums from the top give tp and fp at every threshold.
Targets are matched anew only where the mask changes from one threshold to the next. The counts equal those of
`pixel_counts` and `target_counts` at each threshold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import auc

from .._regions import find_regions
from ..errors import ConfigError, DataError
from .convention import MetricConvention
from .functional import Map, TargetCounts, as_array, binarize, count_regions

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def default_thresholds(steps: int = 64) -> FloatArray:
    """0, and `steps` + 1 probabilities evenly spaced in logit, −9 to 9; ½ is there if `steps` is even.

    Sigmoid outputs crowd near 0 and 1, where evenly spaced probabilities would leave a curve without points.

    Returns:
        float64 [steps + 2], ascending.
    """
    if steps < 1:
        raise ConfigError("a curve needs thresholds", found=steps, expected="at least 1 step")
    return np.concatenate([[0.0], 1.0 / (1.0 + np.exp(-np.linspace(-9.0, 9.0, steps + 1)))])


@dataclass(frozen=True)
class Curves:
    """Counts over a data set at T thresholds, and the ratios made of them; a ratio of nothing is 0.

    Attributes:
        thresholds: float64 [T], ascending; a pixel is predicted where its probability is strictly above.
        tp, fp, fn, tn: int64 [T], pixels.
        detected, predicted, false_area: int64 [T], matched targets, predicted regions, false-alarm pixels.
        targets: true targets, the same at every threshold.
        niou: float64 [T].
    """

    thresholds: FloatArray
    tp: IntArray
    fp: IntArray
    fn: IntArray
    tn: IntArray
    detected: IntArray
    predicted: IntArray
    false_area: IntArray
    targets: int
    niou: FloatArray

    @property
    def precision(self) -> FloatArray:
        """Share of predicted pixels that are true."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> FloatArray:
        """Share of true pixels that are predicted; the true positive rate of the ROC curve."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def false_positive_rate(self) -> FloatArray:
        """Share of background pixels that are predicted."""
        return _ratio(self.fp, self.fp + self.tn)

    @property
    def iou(self) -> FloatArray:
        """Intersection over union."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def f1(self) -> FloatArray:
        """Harmonic mean of precision and recall."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def pd(self) -> FloatArray:
        """Share of the true targets that are matched."""
        return _ratio(self.detected, np.full_like(self.detected, self.targets))

    @property
    def fa(self) -> FloatArray:
        """Pixels of false alarms / all pixels."""
        return _ratio(self.false_area, self.tp + self.fp + self.fn + self.tn)

    @property
    def average_precision(self) -> float:
        """Σ (R_i − R_{i+1})·P_i over the thresholds, R = 0 beyond the last: steps under the PR curve."""
        return float(-(np.diff(self.recall, append=0.0) * self.precision).sum())

    @property
    def roc_auc(self) -> float:
        """Area under the ROC curve by trapezoids between the thresholds, from (0, 0) to (1, 1)."""
        rate = np.concatenate([[0.0], self.false_positive_rate[::-1], [1.0]])
        return float(auc(rate, np.concatenate([[0.0], self.recall[::-1], [1.0]])))

    def rows(self) -> list[dict[str, float | int]]:
        """One row a threshold, for a table."""
        columns = {
            "threshold": self.thresholds,
            **{name: getattr(self, name) for name in ("precision", "recall", "false_positive_rate")},
            **{name: getattr(self, name) for name in ("iou", "niou", "f1", "pd", "fa")},
            **{name: getattr(self, name) for name in ("tp", "fp", "fn", "tn")},
            **{name: getattr(self, name) for name in ("detected", "predicted", "false_area")},
        }
        return [
            {name: values[i].item() for name, values in columns.items()} for i in range(len(self.thresholds))
        ]

    def to_dict(self) -> dict[str, Any]:
        """Counts, areas under the curves and the best thresholds as plain values for a JSON file."""
        counts = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            "average_precision": self.average_precision,
            "roc_auc": self.roc_auc,
            "best_iou": self._best(self.iou),
            "best_f1": self._best(self.f1),
            **{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in counts.items()},
        }

    def _best(self, values: FloatArray) -> dict[str, float]:
        best = int(np.argmax(values))
        return {"value": float(values[best]), "threshold": float(self.thresholds[best])}


class ThresholdSweep:
    """Collects `Curves` image by image; memory does not grow with the images.

    Args:
        thresholds: ascending, in [0, 1); `default_thresholds()` and the convention's own if None.
        convention: of matching and of empty images; the default one if None. Its threshold is not used.

    Raises:
        ConfigError: thresholds out of order or of range.
    """

    def __init__(
        self, thresholds: Iterable[float] | None = None, convention: MetricConvention | None = None
    ) -> None:
        self.convention = convention if convention is not None else MetricConvention()
        if thresholds is None:
            levels = np.union1d(default_thresholds(), [self.convention.threshold])
        else:
            try:
                levels = np.asarray(list(thresholds), np.float64)
            except (TypeError, ValueError, OverflowError) as error:
                raise ConfigError("no thresholds of a curve", found=error, expected="numbers") from error
        ordered = levels.ndim == 1 and levels.size > 0 and bool((np.diff(levels) > 0).all())
        if not (ordered and levels[0] >= 0 and levels[-1] < 1):
            raise ConfigError("no thresholds of a curve", found=levels, expected="ascending, in [0, 1)")
        self.thresholds = levels
        self._pixels = np.zeros((4, levels.size), np.int64)  # tp, fp, fn, tn
        self._regions = np.zeros((3, levels.size), np.int64)  # detected, predicted, false_area
        self._targets = 0
        self._iou = np.zeros(levels.size)
        self._images = np.zeros(levels.size, np.int64)

    def update(self, probability: Map, target: Map) -> None:
        """Add one image.

        Args:
            probability: floating point [H, W].
            target: the true mask [H, W].

        Raises:
            DataError: shapes that differ, not [H, W], not floating point, or not a number.
        """
        values = as_array(probability)
        truth = binarize(target)
        _check(values, truth)
        # Compared in the map's own precision, as `values > threshold` is.
        gap = np.searchsorted(self.thresholds.astype(values.dtype), values.ravel(), side="left")
        size = self.thresholds.size
        everything = np.bincount(gap, minlength=size + 1)
        true = np.bincount(gap[truth.ravel()], minlength=size + 1)
        tp, positive = _from_top(true), _from_top(everything)
        fp, fn = positive - tp, int(true.sum()) - tp
        self._pixels += np.stack([tp, fp, fn, values.size - tp - fp - fn])
        self._add_iou(tp, tp + fp + fn)
        self._match(gap.reshape(values.shape), everything, truth)

    def _add_iou(self, tp: IntArray, union: IntArray) -> None:
        rule = self.convention.empty_niou
        self._iou += np.where(union > 0, tp / np.maximum(union, 1), float(rule == "one"))
        self._images += 1 if rule != "skip" else union > 0

    def _match(self, gap: IntArray, everything: IntArray, truth: npt.NDArray[np.bool_]) -> None:
        connectivity = self.convention.connectivity
        true = find_regions(truth, connectivity)
        counts: TargetCounts | None = None
        for i in reversed(range(self.thresholds.size)):
            if counts is None or everything[i + 1]:  # no pixel between this threshold and the next: same mask
                counts = count_regions(true, find_regions(gap > i, connectivity), self.convention)
            self._regions[:, i] += (counts.detected, counts.predicted, counts.false_area)
        self._targets += true.count

    def curves(self) -> Curves:
        """The curves over the images so far."""
        tp, fp, fn, tn = self._pixels.copy()
        detected, predicted, false_area = self._regions.copy()
        niou = self._iou / np.maximum(self._images, 1)
        return Curves(self.thresholds, tp, fp, fn, tn, detected, predicted, false_area, self._targets, niou)


def _from_top(counts: IntArray) -> IntArray:
    """counts[k] of pixels above k thresholds → how many are above threshold i, for every i."""
    return counts[::-1].cumsum()[::-1][1:]


def _ratio(part: IntArray, whole: IntArray) -> FloatArray:
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def _check(values: npt.NDArray[Any], truth: npt.NDArray[np.bool_]) -> None:
    if values.ndim != 2 or values.shape != truth.shape or not np.issubdtype(values.dtype, np.floating):
        raise DataError(
            "a sweep takes the probabilities and the mask of one image",
            found=f"{values.dtype} {values.shape} and {truth.shape}",
            expected="floating point [H, W] and a mask [H, W]",
        )
