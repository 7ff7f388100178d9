"""What every loss does first: full precision, equal shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import LabelError


def full_precision(x: Tensor) -> Tensor:
    """Half precision becomes float32, in which sums over an image neither overflow nor stall."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def matched(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits in full precision, and the target in the same dtype.

    Raises:
        LabelError: if the shapes differ; broadcasting here would train on nonsense without a word.
    """
    if logits.shape != target.shape:
        raise LabelError(
            "logits and labels have different shapes",
            found=f"logits {tuple(logits.shape)}, labels {tuple(target.shape)}",
            expected="both [batch, 1, height, width]",
        )
    logits = full_precision(logits)
    return logits, target.to(logits.dtype)


def per_sample_mean(values: Tensor) -> Tensor:
    """[B, ...] → [B]."""
    return values.flatten(1).mean(1)
