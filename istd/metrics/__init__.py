"""IoU, nIoU, Pd and Fa, as pure functions (`functional`) and as torchmetrics metrics."""

from __future__ import annotations

from . import functional
from ._matching import Match
from .convention import DNANET, MetricConvention
from .functional import PixelCounts, TargetCounts, binarize, pixel_counts, target_counts
from .modules import DetectionMetrics, FalseAlarmRate, IoU, NIoU, ProbabilityOfDetection

__all__ = [
    "DNANET",
    "DetectionMetrics",
    "FalseAlarmRate",
    "IoU",
    "Match",
    "MetricConvention",
    "NIoU",
    "PixelCounts",
    "ProbabilityOfDetection",
    "TargetCounts",
    "binarize",
    "functional",
    "pixel_counts",
    "target_counts",
]
