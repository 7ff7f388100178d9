"""One weight a cluster of samples (arXiv 2605.14346)."""

from __future__ import annotations

from ._parameterization import Normalization, Parameterization
from ._table import TableWeights


class ClusterWeights(TableWeights):
    """r = α_c − batch mean; r ← ln2·tanh(r/ln2); w = eʳ / mean(eʳ): weights of samples by their cluster.

    The published code holds the mean in the denominator constant in the derivative and adds 1e-6 to it;
    `normalize="detached_mean"` agrees with it exactly. The default differentiates the mean as well, because
    the derivative should be that of the weights in use: scaling all eʳ alike changes no weight, and only so
    does the gradient say that.

    Args:
        num_clusters: clusters; `forward` takes cluster numbers 0 … num_clusters − 1, shape [B].
        parameterization: see `TableWeights`.
        normalize: see `TableWeights`.
        init: α to start from.
    """

    def __init__(
        self,
        num_clusters: int,
        *,
        parameterization: Parameterization = "bounded_exp",
        normalize: Normalization = "mean",
        init: float = 0.0,
    ) -> None:
        super().__init__(num_clusters, parameterization=parameterization, normalize=normalize, init=init)
