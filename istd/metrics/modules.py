"""The metrics as torchmetrics metrics: they collect counts, image by image, and merge over processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from ..errors import DataError
from . import functional as F
from .convention import MetricConvention
from .functional import PixelCounts, TargetCounts

Maps = Tensor | Sequence[Tensor]


class _CountingMetric(Metric):
    """Base: cuts batches into images and probabilities into masks.

    Args:
        convention: the default one if None.
        from_logits: predictions are logits; the sigmoid is applied before the threshold.
    """

    is_differentiable = False
    higher_is_better: bool | None = True
    full_state_update = False

    def __init__(
        self, convention: MetricConvention | None = None, from_logits: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.convention = convention if convention is not None else MetricConvention()
        self.from_logits = from_logits

    def _images(self, preds: Maps, target: Maps) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs of masks bool [H, W] from [B, 1, H, W], [B, H, W], [H, W], or sequences of them."""
        if not isinstance(preds, Tensor) or not isinstance(target, Tensor):
            for one, other in _paired(preds, target):
                yield from self._images(one, other)
            return
        if preds.shape != target.shape:
            raise DataError(
                "prediction and mask differ in size",
                found=f"{tuple(preds.shape)} and {tuple(target.shape)}",
                expected="one shape",
            )
        flat = preds.ndim < 2 or 0 in preds.shape[-2:]
        if flat or (preds.ndim == 4 and preds.shape[1] != 1) or preds.ndim > 4:
            raise DataError(
                "these are not maps", found=tuple(preds.shape), expected="[B, 1, H, W], [B, H, W] or [H, W]"
            )
        if preds.is_floating_point():
            preds = torch.sigmoid(preds) if self.from_logits else preds
        masks = F.binarize(target)
        predicted = F.binarize(preds, self.convention.threshold)
        height, width = masks.shape[-2:]
        yield from zip(predicted.reshape(-1, height, width), masks.reshape(-1, height, width), strict=True)


def _paired(preds: Maps, target: Maps) -> Iterator[tuple[Tensor, Tensor]]:
    """The tensors of two sequences of one length, side by side. Raises `DataError` on anything else."""
    sequences = all(
        isinstance(some, Sequence) and not isinstance(some, str | bytes) for some in (preds, target)
    )
    if not sequences or len(preds) != len(target):
        shown = [
            f"{type(some).__name__} of {len(some)}" if sequences else type(some).__name__
            for some in (preds, target)
        ]
        raise DataError(
            "predictions and masks differ in number",
            found=" and ".join(shown),
            expected="two tensors of one shape or two sequences of one length",
        )
    for one, other in zip(preds, target, strict=True):
        if not isinstance(one, Tensor) or not isinstance(other, Tensor):
            raise DataError(
                "these are not maps",
                found=f"{type(one).__name__} and {type(other).__name__}",
                expected="tensors",
            )
        yield one, other


class IoU(_CountingMetric):
    """Intersection over union of all pixels of all images."""

    tp: Tensor
    union: Tensor

    def __init__(
        self, convention: MetricConvention | None = None, from_logits: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(convention, from_logits, **kwargs)
        self.add_state("tp", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("union", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Maps, target: Maps) -> None:
        """Add images: probabilities (or logits) and masks, [B, 1, H, W], [B, H, W], [H, W] or sequences."""
        for p, t in self._images(preds, target):
            counts = F.pixel_counts(p, t)
            self.tp += counts.tp
            self.union += counts.union

    def compute(self) -> Tensor:
        """IoU in [0, 1], float64."""
        return _ratio(self.tp, self.union)


class NIoU(_CountingMetric):
    """Mean over the images of the IoU of each; empty images as the convention says."""

    total: Tensor
    images: Tensor

    def __init__(
        self, convention: MetricConvention | None = None, from_logits: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(convention, from_logits, **kwargs)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Maps, target: Maps) -> None:
        """Add images: probabilities (or logits) and masks, [B, 1, H, W], [B, H, W], [H, W] or sequences."""
        for p, t in self._images(preds, target):
            counts = F.pixel_counts(p, t)
            if counts.union or self.convention.empty_niou != "skip":
                self.total += F.niou([counts], self.convention.empty_niou)
                self.images += 1

    def compute(self) -> Tensor:
        """NIoU in [0, 1], float64."""
        return _ratio(self.total, self.images)


class ProbabilityOfDetection(_CountingMetric):
    """Pd: share of the true targets that were matched."""

    detected: Tensor
    targets: Tensor

    def __init__(
        self, convention: MetricConvention | None = None, from_logits: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(convention, from_logits, **kwargs)
        self.add_state("detected", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("targets", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Maps, target: Maps) -> None:
        """Add images: probabilities (or logits) and masks, [B, 1, H, W], [B, H, W], [H, W] or sequences."""
        for p, t in self._images(preds, target):
            counts = F.target_counts(p, t, self.convention)
            self.detected += counts.detected
            self.targets += counts.targets

    def compute(self) -> Tensor:
        """Pd in [0, 1], float64."""
        return _ratio(self.detected, self.targets)


class FalseAlarmRate(_CountingMetric):
    """Fa: share of all pixels that lie in false alarms; usually shown times 1e6."""

    higher_is_better = False
    false_area: Tensor
    pixels: Tensor

    def __init__(
        self, convention: MetricConvention | None = None, from_logits: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(convention, from_logits, **kwargs)
        self.add_state("false_area", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("pixels", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Maps, target: Maps) -> None:
        """Add images: probabilities (or logits) and masks, [B, 1, H, W], [B, H, W], [H, W] or sequences."""
        for p, t in self._images(preds, target):
            counts = F.target_counts(p, t, self.convention)
            self.false_area += counts.false_area
            self.pixels += counts.pixels

    def compute(self) -> Tensor:
        """Fa in [0, 1], float64."""
        return _ratio(self.false_area, self.pixels)


_PIXELS = ("tp", "fp", "fn", "tn")
_TARGETS = ("targets", "detected", "predicted", "false_area")


class DetectionMetrics(_CountingMetric):
    """All metrics in one pass, with a row per image kept for tables.

    `compute` answers {"iou", "niou", "pd", "fa", "precision", "recall", "f1"}, float64 scalars.
    """

    higher_is_better = None
    rows: list[Tensor]

    def __init__(
        self, convention: MetricConvention | None = None, from_logits: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(convention, from_logits, **kwargs)
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, preds: Maps, target: Maps) -> None:
        """Add images: probabilities (or logits) and masks, [B, 1, H, W], [B, H, W], [H, W] or sequences."""
        for p, t in self._images(preds, target):
            pixels, targets = F.pixel_counts(p, t), F.target_counts(p, t, self.convention)
            row = [getattr(pixels, name) for name in _PIXELS] + [getattr(targets, name) for name in _TARGETS]
            self.rows.append(torch.tensor([row], dtype=torch.int64, device=self.device))

    def counts(self) -> tuple[list[PixelCounts], list[TargetCounts]]:
        """The counts of each image, in the order of the updates (matches are not kept)."""
        pixels, targets = [], []
        rows = (
            self.rows if isinstance(self.rows, list) else [self.rows]
        )  # a tensor once processes have merged
        for row in (values for block in rows for values in block.tolist()):
            tp, fp, fn, tn, true, detected, predicted, false_area = row
            pixels.append(PixelCounts(tp, fp, fn, tn))
            targets.append(TargetCounts(true, detected, predicted, false_area, tp + fp + fn + tn, ()))
        return pixels, targets

    def compute(self) -> dict[str, Tensor]:
        """All metrics over the images so far."""
        pixels, targets = self.counts()
        whole = PixelCounts(*(sum(getattr(image, name) for image in pixels) for name in _PIXELS))
        values = {
            "iou": F.iou(whole),
            "niou": F.niou(pixels, self.convention.empty_niou),
            "pd": F.probability_of_detection(targets),
            "fa": F.false_alarm_rate(targets),
            "precision": F.precision(whole),
            "recall": F.recall(whole),
            "f1": F.f1(whole),
        }
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    def per_image(self) -> list[dict[str, float | int]]:
        """A row for each image: its ratios and its counts."""
        rows: list[dict[str, float | int]] = []
        for pixels, targets in zip(*self.counts(), strict=True):
            rows.append(
                {
                    "iou": F.niou([pixels], "one" if self.convention.empty_niou == "one" else "zero"),
                    "precision": F.precision(pixels),
                    "recall": F.recall(pixels),
                    "f1": F.f1(pixels),
                    "targets": targets.targets,
                    "detected": targets.detected,
                    "predicted": targets.predicted,
                    "false_area": targets.false_area,
                    "tp": pixels.tp,
                    "fp": pixels.fp,
                    "fn": pixels.fn,
                    "pixels": pixels.total,
                }
            )
        return rows


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Part / whole in float64; 0 where there is nothing to divide by."""
    return (
        part.double() / whole.double()
        if float(whole)
        else torch.zeros((), dtype=torch.float64, device=part.device)
    )
