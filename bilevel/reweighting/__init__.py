"""Re-weighting of training samples as modules, to be used as the outer module of a problem."""

from ._table import TableWeights
from .cluster import ClusterWeights
from .sample import SampleWeights

__all__ = ["ClusterWeights", "SampleWeights", "TableWeights"]
