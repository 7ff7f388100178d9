"""Clusters of training images: drop redundant descriptors → standardise → PCA → k-means.

The reference's recipe, with three differences: only training images are seen, their size is not a descriptor,
and the number of clusters follows the number of images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ..errors import ConfigError, DataError

IMAGES_PER_CLUSTER = 2755 / 256
"""The reference's number of images per cluster; the default number of clusters keeps it."""

_CONSTANT = 1e-10  # of a column's standard deviation, relative to its largest value
_RESTARTS = 10
_DISTANCES = 2**22  # between images and centres, held at once

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Clusters:
    """A clustering and all that it takes to assign other images to it.

    Attributes:
        assignment: int64 [N], cluster of each image it was fitted on; every cluster has at least one.
        columns: int64 [d], the descriptors that were kept.
        mean: float64 [d], their means.
        scale: float64 [d], their standard deviations.
        components: float64 [p, d], the principal axes of the standardised descriptors.
        centers: float64 [K, p], cluster centres along those axes.
        num_descriptors: how many descriptors an image must come with.
    """

    assignment: IntArray
    columns: IntArray
    mean: FloatArray
    scale: FloatArray
    components: FloatArray
    centers: FloatArray
    num_descriptors: int

    @property
    def num_clusters(self) -> int:
        """K; can be less than was asked for where there are fewer different images."""
        return len(self.centers)

    def embed(self, descriptors: npt.ArrayLike) -> FloatArray:
        """Descriptors [N, D] along the principal axes, float64 [N, p].

        Raises:
            DataError: another number of descriptors, or values that are not finite.
        """
        array = _check_descriptors(descriptors)
        if array.shape[1] != self.num_descriptors:
            raise DataError(
                "the images are described otherwise than those of the clusters",
                found=f"{array.shape[1]} descriptors",
                expected=f"{self.num_descriptors}",
            )
        return ((array[:, self.columns] - self.mean) / self.scale) @ self.components.T

    def predict(self, descriptors: npt.ArrayLike) -> IntArray:
        """The nearest cluster of each image, int64 [N], from descriptors [N, D]."""
        return _nearest(self.embed(descriptors), self.centers)


def fit_clusters(
    descriptors: npt.ArrayLike,
    num_clusters: int | None = None,
    seed: int = 0,
    *,
    max_correlation: float = 0.95,
    variance: float = 0.9,
) -> Clusters:
    """Cluster images by their descriptors; the same data and seed give the same bits.

    Args:
        descriptors: float [N, D], one row per training image, from `describe`.
        num_clusters: how many; None scales with the images, about one cluster for 11. Never more than there
            are images that differ.
        seed: of the k-means starts, 0 ≤ seed < 2³².
        max_correlation: of two descriptors with at least this |ρ| the later one goes.
        variance: share of the variance that the principal axes must explain.

    Raises:
        DataError: no images, or descriptors that are not finite; ConfigError: settings out of range.
    """
    array = _check_descriptors(descriptors)
    if len(array) == 0:
        raise DataError("there are no images to cluster")
    if num_clusters is not None and num_clusters < 1:
        raise ConfigError("the number of clusters must be positive", found=num_clusters)
    if not (0.0 < max_correlation <= 1.0 and 0.0 < variance <= 1.0 and 0 <= seed < 2**32):
        raise ConfigError("cluster settings are out of range", found=(max_correlation, variance, seed))
    # Sums over several threads arrive in any order: one thread keeps them the same at every run.
    with threadpool_limits(limits=1):
        columns = _independent_columns(array, max_correlation)
        mean, scale = array[:, columns].mean(axis=0), array[:, columns].std(axis=0)
        standard = (array[:, columns] - mean) / scale
        components = _principal_axes(standard, variance)
        embedded = standard @ components.T
        wanted = num_clusters if num_clusters is not None else max(1, round(len(array) / IMAGES_PER_CLUSTER))
        centers = _centers(embedded, wanted, seed)
        assignment = _nearest(embedded, centers)
    return Clusters(assignment, columns, mean, scale, components, centers, array.shape[1])


def _check_descriptors(descriptors: npt.ArrayLike) -> FloatArray:
    """Finite float64 [N, D], or a `DataError`."""
    array = np.asarray(descriptors, dtype=np.float64)
    if array.ndim != 2:
        raise DataError(
            "descriptors are not one row per image", found=array.shape, expected="[images, descriptors]"
        )
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0].tolist()
        raise DataError("a descriptor is not finite", found=f"image {row}, descriptor {column}")
    return array


def _independent_columns(array: FloatArray, max_correlation: float) -> IntArray:
    """Columns that vary and do not repeat an earlier one."""
    spread = array.std(axis=0)
    varying = np.flatnonzero(spread > _CONSTANT * np.maximum(np.abs(array).max(axis=0), 1.0))
    standard = (array[:, varying] - array[:, varying].mean(axis=0)) / spread[varying]
    correlation = np.abs(standard.T @ standard) / len(array)
    kept: list[int] = []
    for column in range(len(varying)):
        if not (correlation[column, kept] >= max_correlation).any():
            kept.append(column)
    return varying[kept].astype(np.int64)


def _principal_axes(standard: FloatArray, variance: float) -> FloatArray:
    """The fewest principal axes [p, d] that explain `variance`; none where nothing varies."""
    if standard.shape[1] == 0:
        return np.zeros((0, 0))
    found = PCA(svd_solver="full").fit(standard)
    explained = np.cumsum(found.explained_variance_ratio_)
    count = min(int(np.searchsorted(explained, variance)) + 1, len(explained))
    return np.ascontiguousarray(found.components_[:count], dtype=np.float64)


def _centers(embedded: FloatArray, wanted: int, seed: int) -> FloatArray:
    """Centres [K, p] of at most `wanted` clusters, none of them empty."""
    different = len(np.unique(embedded, axis=0))
    count = min(wanted, different)
    if count == 1:
        return embedded.mean(axis=0, keepdims=True)
    found = KMeans(n_clusters=count, n_init=_RESTARTS, max_iter=300, random_state=seed, algorithm="lloyd")
    centers = np.asarray(found.fit(embedded).cluster_centers_, np.float64)
    return centers[np.unique(_nearest(embedded, centers))]


def _nearest(embedded: FloatArray, centers: FloatArray) -> IntArray:
    """The nearest centre of each row, the first one at a tie, int64 [N]."""
    nearest = np.empty(len(embedded), np.int64)
    rows = max(1, _DISTANCES // len(centers))  # at once: all distances of many images do not fit in memory
    for first in range(0, len(embedded), rows):
        part = embedded[first : first + rows]
        distance = np.stack([((part - center) ** 2).sum(axis=1) for center in centers], axis=1)
        nearest[first : first + rows] = distance.argmin(axis=1)
    return nearest
