"""Meta label correction: the training labels themselves are outer parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._numbers import check_numbers
from ..errors import OptionError
from ._index import as_index, as_integers


class SoftLabels(nn.Module):
    """A learned distribution over the classes for each training sample, starting from the given label.

    Weights can only switch a wrongly labelled sample off; a corrected label lets it teach. The labels are
    free parameters, one row a sample, softmax of logits (the tabular form of meta label correction; Zheng et
    al. 2021 predict them by a network).

    Args:
        labels: given labels, integers of shape [N].
        num_classes: C ≥ 2.
        confidence: the probability that a sample's given label starts from, in (1/C, 1); the other classes
            share the rest. The nearer to 1, the smaller the gradient of the softmax.

    Attributes:
        logits: parameter, shape [N, C].

    Raises:
        OptionError: an argument is out of range.
        BatchError: the labels are not a vector of integers.
    """

    logits: nn.Parameter

    def __init__(self, labels: Tensor, num_classes: int, *, confidence: float = 0.9) -> None:
        super().__init__()
        check_numbers("SoftLabels", whole={"num_classes": num_classes}, real={"confidence": confidence})
        if num_classes < 2 or not 1 / num_classes < confidence < 1:
            raise OptionError(
                "out of range",
                where="SoftLabels(num_classes, confidence)",
                found=(num_classes, confidence),
                expected="num_classes ≥ 2, confidence above 1/num_classes and below 1",
            )
        labels = as_integers(labels, "SoftLabels(labels)", "[N]")
        if labels.numel() == 0 or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
            raise OptionError(
                "a label is no class",
                where="SoftLabels(labels)",
                found=f"{labels.numel()} labels"
                + (f" from {int(labels.min())} to {int(labels.max())}" if labels.numel() else ""),
                expected=f"at least one, within 0 … {num_classes - 1}",
            )
        # softmax of this gap gives the given class `confidence` and each other (1 − confidence)/(C − 1).
        gap = math.log(confidence * (num_classes - 1) / (1 - confidence))
        one_hot = nn.functional.one_hot(labels, num_classes).to(torch.get_default_dtype())
        self.logits = nn.Parameter(gap * one_hot)

    def forward(self, index: Tensor) -> Tensor:
        """The label distributions of a batch.

        Args:
            index: position of each sample in the training set, integers of shape [B].

        Returns:
            Probabilities, shape [B, C], as `torch.nn.functional.cross_entropy` takes them for a target.

        Raises:
            BatchError: the index is not a vector of integers, or one is no position in the training set.
        """
        return self.logits[as_index(index, len(self.logits), "SoftLabels")].softmax(dim=1)

    def hard(self) -> Tensor:
        """The most probable class of every sample now, integers of shape [N]."""
        return self.logits.detach().argmax(dim=1)

    def extra_repr(self) -> str:
        """Shown by print."""
        return ", ".join(str(size) for size in self.logits.shape)
