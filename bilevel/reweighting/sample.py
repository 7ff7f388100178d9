"""One weight a training sample, as in data hyper-cleaning (Franceschi et al. 2017)."""

from __future__ import annotations

from ._parameterization import Normalization, Parameterization
from ._table import TableWeights


class SampleWeights(TableWeights):
    """Weights of samples by their position in the training set.

    Args:
        num_samples: samples; `forward` takes positions 0 … num_samples − 1, shape [B].
        parameterization: see `TableWeights`. A sigmoid can switch a sample off.
        normalize: see `TableWeights`.
        init: the number to start from; 0 is σ = ½.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        parameterization: Parameterization = "sigmoid",
        normalize: Normalization = "none",
        init: float = 0.0,
    ) -> None:
        super().__init__(num_samples, parameterization=parameterization, normalize=normalize, init=init)
