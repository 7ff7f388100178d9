"""Soft intersection over union (Rahman & Wang, ISVC 2016), usual for small targets since DNANet."""

from __future__ import annotations

from torch import Tensor

from ..errors import ConfigError
from ._shape import matched


def soft_iou_loss(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """1 − (Σ p·y + ε) / (Σ p + Σ y − Σ p·y + ε) of each image, p = σ(logits).

    Args:
        logits: [B, 1, H, W].
        target: y, soft labels in [0, 1], same shape.
        smooth: ε > 0, in pixels. It makes an image without targets well defined: its loss is then
            Σp / (Σp + ε), which pulls false alarms down.

    Returns:
        [B], each in [0, 1).

    Raises:
        ConfigError: if `smooth` is not positive.
    """
    if smooth <= 0:
        raise ConfigError("soft IoU needs a positive smoothing", found=smooth)
    logits, target = matched(logits, target)
    prob, truth = logits.sigmoid().flatten(1), target.flatten(1)
    intersection = (prob * truth).sum(1)
    union = prob.sum(1) + truth.sum(1) - intersection
    return 1.0 - (intersection + smooth) / (union + smooth)
