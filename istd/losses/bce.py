"""Binary cross-entropy, the task loss of arXiv 2605.14346."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ._shape import matched, per_sample_mean


def bce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """−[y log σ(z) + (1 − y) log(1 − σ(z))], averaged over the pixels of each image.

    Args:
        logits: z, [B, 1, H, W].
        target: y, soft labels in [0, 1], same shape.

    Returns:
        [B].
    """
    logits, target = matched(logits, target)
    return per_sample_mean(F.binary_cross_entropy_with_logits(logits, target, reduction="none"))
