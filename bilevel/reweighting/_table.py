"""Weights kept in a table and looked up by index."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._numbers import check_numbers
from ..errors import OptionError
from ._index import as_index
from ._parameterization import Normalization, Parameterization, weighting


class TableWeights(nn.Module):
    """One learnable number an entry; `forward(index)` gives the weights of a batch.

    Args:
        num_entries: entries in the table.
        parameterization: from numbers to positive weights: `"bounded_exp"` (within [½, 2] times the batch's
            scale), `"softmax"` (over the batch), `"sigmoid"`, `"softplus"`.
        normalize: `"mean"` divides by the batch mean, so that a batch keeps its total weight: the outer loss
            can then shift weight between samples but not act as a learning rate, and the derivative knows
            it. In a batch of a single entry all weights are 1 and learn nothing. `"detached_mean"` does the
            same but holds the mean constant in the derivative and adds 1e-6 to it; the gradient then points
            along the common scale too, which the forward pass removes.
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
        check_numbers(where, whole={"number of entries": num_entries}, real={"init": init})
        largest = torch.finfo(torch.get_default_dtype()).max
        if abs(init) > largest:
            raise OptionError(
                "too far from 0", where=f"{where}(init)", found=init, expected=f"at most {largest:.3g}"
            )
        self._positive, self._scale = weighting(parameterization, normalize, where)
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
            BatchError: the index is not a vector of integers, or one is not an entry of the table.
        """
        entries = as_index(index, len(self.logits), type(self).__name__)
        return self._scale(self._positive(self.logits[entries]))

    def extra_repr(self) -> str:
        """Shown by print."""
        return (
            f"{self.logits.numel()}, parameterization={self.parameterization!r}, normalize={self.normalize!r}"
        )
