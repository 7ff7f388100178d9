"""Knowledge distillation between teacher and student (arXiv 2605.14346)."""

from __future__ import annotations

from torch import Tensor

from ..models.output import Output, final_logits
from ._shape import matched, per_sample_mean


def kd_loss(student: Output, teacher: Output, temperature: float = 4.0) -> Tensor:
    """MSE(σ(s/T), σ(t/T)) of each image, on the final outputs.

    Gradients flow into both; who is fixed is decided by the inner and the outer loss.

    Args:
        student: s, logits [B, 1, H, W], or with auxiliary ones, which are not used.
        teacher: t, the same.
        temperature: T.

    Returns:
        [B].
    """
    s, t = matched(final_logits(student), final_logits(teacher))
    return per_sample_mean(((s / temperature).sigmoid() - (t / temperature).sigmoid()).square())
