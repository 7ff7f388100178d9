"""IoU, nIoU, Pd and Fa, as pure functions (`functional`) and as torchmetrics metrics; curves and groups."""

from __future__ import annotations

from . import functional
from ._matching import Match
from .convention import CONVENTIONS, DNANET, MetricConvention, named_convention
from .functional import PixelCounts, TargetCounts, binarize, pixel_counts, target_counts
from .groups import GROUPS, GroupMetrics, TargetTraits, describe_targets
from .modules import DetectionMetrics, FalseAlarmRate, IoU, NIoU, ProbabilityOfDetection
from .sweep import Curves, ThresholdSweep, default_thresholds

__all__ = [
    "CONVENTIONS",
    "DNANET",
    "GROUPS",
    "Curves",
    "DetectionMetrics",
    "FalseAlarmRate",
    "GroupMetrics",
    "IoU",
    "Match",
    "MetricConvention",
    "NIoU",
    "PixelCounts",
    "ProbabilityOfDetection",
    "TargetCounts",
    "TargetTraits",
    "ThresholdSweep",
    "binarize",
    "default_thresholds",
    "describe_targets",
    "functional",
    "named_convention",
    "pixel_counts",
    "target_counts",
]
