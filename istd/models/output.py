"""What a backbone answers: one map of logits, or the final map together with auxiliary ones."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from torch import Tensor


class DeepOutput(NamedTuple):
    """The answer of a backbone with deep supervision.

    Attributes:
        logits: the final map, [B, 1, H, W], the one that counts: evaluation and distillation use it alone.
        aux: maps of intermediate heads, for the task loss only. Each is [B, 1, h, w] with h ≤ H, w ≤ W,
            covering the same field of view.
    """

    logits: Tensor
    aux: tuple[Tensor, ...]


Output: TypeAlias = Tensor | DeepOutput
"""Logits [B, 1, H, W] of a backbone without auxiliary heads, or a `DeepOutput`. Never probabilities."""


def final_logits(output: Output) -> Tensor:
    """The final logits [B, 1, H, W] of either kind of output."""
    return output.logits if isinstance(output, DeepOutput) else output


def all_logits(output: Output) -> tuple[Tensor, ...]:
    """Every map that a task loss should see: the final one first, then the auxiliary ones."""
    return (output.logits, *output.aux) if isinstance(output, DeepOutput) else (output,)


def detach(output: Output) -> Output:
    """The same output, cut off from automatic differentiation (reverse and forward mode)."""
    if isinstance(output, DeepOutput):
        return DeepOutput(output.logits.detach(), tuple(map.detach() for map in output.aux))
    return output.detach()
