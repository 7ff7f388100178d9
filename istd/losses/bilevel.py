"""The two losses of the bilevel problem (arXiv 2605.14346, section 3)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..errors import LabelError
from ..models.output import Output, detach
from .distillation import kd_loss
from .gate import gate_penalty
from .task import PixelLoss, task_loss


def inner_loss(
    teacher: Output,
    student: Output,
    target: Tensor,
    gate: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    kind: str | PixelLoss = "bce",
    kd_weight: float = 0.1,
    gate_weight: float = 0.005,
    temperature: float = 4.0,
    over_outputs: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """mean[ w · (task(t, y) + 0.1 · KD(s, t)) ] + 0.005 · mean|gate|, on a training batch.

    The teacher learns from the labels and stays near the student; the student is fixed.

    Args:
        teacher: t, logits [B, 1, H, W], or with auxiliary ones.
        student: s; no gradient flows into it (`TeacherStudent(..., fixed="student")` saves work too).
        target: y, soft labels in [0, 1], [B, 1, H, W].
        gate: SCAM's gate; None for a teacher without one.
        weights: w, one per image, [B]; None for 1. Gradients flow into them: they are what the outer
            problem learns.
        kind, over_outputs: see `task_loss`.
        kd_weight, gate_weight, temperature: as published.

    Returns:
        A scalar.
    """
    per_image = task_loss(teacher, target, kind, over_outputs)
    if kd_weight:
        per_image = per_image + kd_weight * kd_loss(detach(student), teacher, temperature)
    value = _weighted_mean(per_image, weights)
    return value if gate is None else value + gate_weight * gate_penalty(gate)


def outer_loss(
    student: Output,
    teacher: Output,
    target: Tensor,
    weights: Tensor | None = None,
    *,
    kind: str | PixelLoss = "bce",
    kd_weight: float = 1.0,
    temperature: float = 4.0,
    over_outputs: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """mean[ w′ · (KD(s, t) + task(s, y)) ], on a held-out batch.

    The student learns from the labels and from the teacher, which is fixed.

    Args:
        student: s, logits [B, 1, H, W], or with auxiliary ones.
        teacher: t; no gradient flows into it.
        target: y, soft labels in [0, 1], [B, 1, H, W].
        weights: w′, [B]; None for 1, the sound choice: weights that also weigh the outer loss can lower it by
            looking away. The reference uses w′ = w.
        kind, over_outputs: see `task_loss`.
        kd_weight, temperature: as published.

    Returns:
        A scalar.
    """
    per_image = task_loss(student, target, kind, over_outputs)
    if kd_weight:
        per_image = per_image + kd_weight * kd_loss(student, detach(teacher), temperature)
    return _weighted_mean(per_image, weights)


def _weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return values.mean()
    if weights.shape != values.shape:
        raise LabelError(
            "there must be one weight per image", found=tuple(weights.shape), expected=tuple(values.shape)
        )
    return (weights * values).mean()
