"""Focal loss on soft labels (CornerNet, Law & Deng, ECCV 2018, Eq. 1), the loss of LESPS (CVPR 2023)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .._batch_parts import current_parts
from ..errors import ConfigError
from ._shape import matched


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """−Σ [y (1 − p)^α log p + (1 − y)^β p^α log(1 − p)] / max(1, N) over the pixels of the batch, p = σ(z).

    N counts the pixels of the batch whose label is exactly 1: in LESPS the annotated points. Pixels that the
    network already answers count little, and so do negatives whose label is not far from 1. The logarithms
    are taken of logits, so nothing needs a small ε.

    Args:
        logits: z, [B, 1, H, W].
        target: y, soft labels in [0, 1], same shape.
        alpha: power of the prediction.
        beta: power of the label among the negatives.

    Returns:
        [B]; its mean is the loss of the batch. An image's value is B times its share of that.

    Raises:
        ConfigError: if a power is negative.
    """
    if alpha < 0 or beta < 0:
        raise ConfigError("focal loss needs powers that are not negative", found=(alpha, beta))
    logits, target = matched(logits, target)
    prob = logits.sigmoid()
    positive = target * (1 - prob).pow(alpha) * F.logsigmoid(logits)
    negative = (1 - target).pow(beta) * prob.pow(alpha) * F.logsigmoid(-logits)
    parts = current_parts()
    count = parts.sum((target == 1).sum()).clamp_min(1)
    return -(positive + negative).flatten(1).sum(1) * (parts.size * len(logits) / count)
