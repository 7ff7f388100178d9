"""The task loss by name, for networks with one or several outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..models.output import Output, all_logits
from .bce import bce_loss
from .focal import focal_loss
from .hard_bce import hard_bce_loss
from .soft_iou import soft_iou_loss

PixelLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(logits [B, 1, H, W], soft labels of the same shape) → one value per image, [B]."""


def bce_iou_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy, smooth everywhere, plus soft IoU, which does not mind the imbalance: [B]."""
    return bce_loss(logits, target) + soft_iou_loss(logits, target)


TASK_LOSSES: dict[str, PixelLoss] = {
    "bce": bce_loss,
    "hard-bce": hard_bce_loss,
    "soft-iou": soft_iou_loss,
    "bce-iou": bce_iou_loss,
    "focal": focal_loss,
}
"""Task losses that can be chosen by name."""


def get_task_loss(kind: str | PixelLoss) -> PixelLoss:
    """A task loss by name; a function is passed through.

    Raises:
        ConfigError: if there is none of that name.
    """
    if callable(kind):
        return kind
    if kind not in TASK_LOSSES:
        raise ConfigError(
            f"there is no task loss named {kind!r}", expected=f"one of {', '.join(TASK_LOSSES)}"
        )
    return TASK_LOSSES[kind]


def task_loss(
    output: Output,
    target: Tensor,
    kind: str | PixelLoss = "bce",
    over_outputs: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """The task loss of each image, over all outputs of a network.

    Args:
        output: logits [B, 1, H, W], or with auxiliary ones.
        target: soft labels in [0, 1], [B, 1, H, W]. For a coarser auxiliary map they are max-pooled to its
            size, which keeps a target of one pixel where averaging would wash it out.
        kind: a name from `TASK_LOSSES`, or a function.
        over_outputs: "mean" (the reference; MSHNet in PAL) or "sum" (DNANet and SCTransNet in PAL).

    Returns:
        [B].

    Raises:
        ConfigError: if an option is unknown.
        LabelError: if the labels are of another size than the final logits.
    """
    if over_outputs not in ("mean", "sum"):
        raise ConfigError("unknown way to join outputs", found=repr(over_outputs), expected="'mean' or 'sum'")
    function = get_task_loss(kind)
    final, *aux = all_logits(output)
    losses = [function(final, target)]
    for logits in aux:
        fits = logits.shape[-2:] == target.shape[-2:]
        losses.append(function(logits, target if fits else F.adaptive_max_pool2d(target, logits.shape[-2:])))
    stacked = torch.stack(losses)
    return stacked.mean(0) if over_outputs == "mean" else stacked.sum(0)
