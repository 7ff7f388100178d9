"""Clusters of training images by the character of their backgrounds."""

from __future__ import annotations

from .clustering import IMAGES_PER_CLUSTER, Clusters, fit_clusters
from .descriptors import DESCRIPTOR_NAMES, MIN_SIDE, describe

__all__ = ["DESCRIPTOR_NAMES", "IMAGES_PER_CLUSTER", "MIN_SIDE", "Clusters", "describe", "fit_clusters"]
