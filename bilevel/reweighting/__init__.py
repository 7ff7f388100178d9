"""Re-weighting of training samples as modules, to be used as the outer module of a problem."""

from ._table import TableWeights
from .classes import ClassWeights
from .cluster import ClusterWeights
from .meta_weight_net import MetaWeightNet
from .online import OnlineReweighting
from .sample import SampleWeights
from .soft_labels import SoftLabels

__all__ = [
    "ClassWeights",
    "ClusterWeights",
    "MetaWeightNet",
    "OnlineReweighting",
    "SampleWeights",
    "SoftLabels",
    "TableWeights",
]
