"""One weight a class, for imbalanced or unevenly trusted classes."""

from __future__ import annotations

from ._parameterization import Normalization, Parameterization
from ._table import TableWeights


class ClassWeights(TableWeights):
    """Weights of samples by their label.

    The default, a softmax over the batch that is then divided by its mean, sets no bound on the ratio of two
    weights: classes may be imbalanced by any factor.

    Args:
        num_classes: classes; `forward` takes labels 0 … num_classes − 1, shape [B].
        parameterization: see `TableWeights`.
        normalize: see `TableWeights`.
        init: the number that every class starts from.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        parameterization: Parameterization = "softmax",
        normalize: Normalization = "mean",
        init: float = 0.0,
    ) -> None:
        super().__init__(num_classes, parameterization=parameterization, normalize=normalize, init=init)
