"""Weights kept in a table and looked up by index."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import BatchError, OptionError
from ._parameterization import NORMALIZATIONS, PARAMETERIZATIONS, Normalization, Parameterization, chosen


class TableWeights(nn.Module):
    """One learnable number an entry; `forward(index)` gives the weights of a batch.

    Args:
        num_entries: entries in the table.
        parameterization: from numbers to positive weights: `"bounded_exp"` (within [½, 2] times the batch's
            scale), `"softmax"` (over the batch), `"sigmoid"`, `"softplus"`.
        normalize: `"mean"` divides by the batch mean, so that a batch keeps its total weight: the outer loss
            can then shift weight between samples but not act as a learning rate, and the derivative knows
            it. `"detached_mean"` does the same but holds the mean constant in the derivative and adds 1e-6
            to it; the gradient then points along the common scale too, which the forward pass removes.
            `"none"` leaves the weights as they are.
        init: the number that every entry starts from; equal numbers give equal weights.

    Attributes:
        logits: parameter, shape [num_entries].

    Raises:
        OptionError: an argument is out of range.
    """

    def __init__(
        self,
        num_entries: int,
        *,
        parameterization: Parameterization = "bounded_exp",
        normalize: Normalization = "mean",
        init: float = 0.0,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        if num_entries < 1:
            raise OptionError("too few entries", where=where, found=num_entries, expected="≥ 1")
        self._positive = chosen(PARAMETERIZATIONS, parameterization, f"{where}(parameterization)")
        self._scale = chosen(NORMALIZATIONS, normalize, f"{where}(normalize)")
        self.parameterization = parameterization
        self.normalize = normalize
        self.logits = nn.Parameter(torch.full((num_entries,), float(init)))

    def forward(self, index: Tensor) -> Tensor:
        """The weights of a batch.

        Args:
            index: entry of each sample, integers of shape [B].

        Returns:
            Positive weights, shape [B], in the parameter's type.

        Raises:
            BatchError: the index is not a vector of integers.
        """
        if index.dim() != 1 or index.is_floating_point() or index.dtype == torch.bool:
            raise BatchError(
                "the index is not a vector of integers",
                where=type(self).__name__,
                found=f"shape {tuple(index.shape)}, type {index.dtype}",
                expected="integers of shape [B]",
            )
        return self._scale(self._positive(self.logits[index]))

    def extra_repr(self) -> str:
        """Shown by print."""
        return (
            f"{self.logits.numel()}, parameterization={self.parameterization!r}, normalize={self.normalize!r}"
        )
