"""PAL's loss: binary cross-entropy on the hardest half of the pixels (Yu et al., ICCV 2025)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from .._batch_parts import WHOLE, current_parts
from ..errors import ConfigError
from ._shape import matched


def hard_bce_loss(
    logits: Tensor,
    target: Tensor,
    fraction: float = 0.5,
    scope: Literal["batch", "sample"] = "batch",
) -> Tensor:
    """Cross-entropy averaged over the pixels whose loss is among the highest `fraction`.

    In words: sort the pixel losses, keep those that reach the value at position ⌊(1 − fraction)·n⌋ (all of
    them where several are equal), and average. PAL's code also means to weigh edges by 4, but gives every
    pixel the 4; a constant factor is left out here.

    Args:
        logits: [B, 1, H, W].
        target: soft labels in [0, 1], same shape.
        fraction: in (0, 1]; 1 is plain cross-entropy.
        scope: among which pixels the hardest are chosen: the whole batch, as in PAL, so that an image with
            hard pixels has more of them, or each image by itself.

    Returns:
        [B]; its mean is the loss of the batch. With scope "batch", an image's value is its share of that:
        the sum over its kept pixels divided by the mean number kept per image.

    Raises:
        ConfigError: if an option is out of range.
    """
    if not 0.0 < fraction <= 1.0:
        raise ConfigError("the fraction of pixels to keep is out of range", found=fraction, expected="(0, 1]")
    if scope not in ("batch", "sample"):
        raise ConfigError(
            "unknown scope of the hardest pixels", found=repr(scope), expected="'batch' or 'sample'"
        )
    logits, target = matched(logits, target)
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1)
    parts = current_parts() if scope == "batch" else WHOLE
    ranked = parts.joined(loss.detach()).reshape(1, -1) if scope == "batch" else loss.detach()
    position = min(int((1.0 - fraction) * ranked.shape[1]), ranked.shape[1] - 1)
    threshold = ranked.kthvalue(position + 1, dim=1, keepdim=True).values
    kept = (loss.detach() >= threshold).to(loss.dtype)
    count = kept.sum(1)
    if scope == "sample":
        return (loss * kept).sum(1) / count
    return (loss * kept).sum(1) / (parts.sum(count.mean()) / parts.size)
