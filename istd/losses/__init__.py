"""Losses, one formula a file. All are pure functions of logits, generic over float32 and float64."""

from __future__ import annotations

from .bce import bce_loss
from .bilevel import inner_loss, outer_loss
from .distillation import kd_loss
from .focal import focal_loss
from .gate import gate_penalty
from .hard_bce import hard_bce_loss
from .soft_iou import soft_iou_loss
from .task import TASK_LOSSES, PixelLoss, bce_iou_loss, get_task_loss, task_loss

__all__ = [
    "TASK_LOSSES",
    "PixelLoss",
    "bce_iou_loss",
    "bce_loss",
    "focal_loss",
    "gate_penalty",
    "get_task_loss",
    "hard_bce_loss",
    "inner_loss",
    "kd_loss",
    "outer_loss",
    "soft_iou_loss",
    "task_loss",
]
