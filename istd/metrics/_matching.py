"""One-to-one matching of true targets and predicted regions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from .._regions import Regions
from .convention import Matching


class Match(NamedTuple):
    """A true target, the predicted region it was given (both from 0), their centroids' distance in pixels."""

    target: int
    predicted: int
    distance: float


def match_regions(true: Regions, predicted: Regions, matching: Matching, limit: float) -> tuple[Match, ...]:
    """Match as `MetricConvention.matching` says; `limit` is the centroid distance, exclusive."""
    if true.count == 0 or predicted.count == 0:
        return ()
    offset = true.centroids[:, None] - predicted.centroids[None]
    distance = np.sqrt((offset * offset).sum(axis=-1))
    if matching == "overlap":
        pairs = _greedy(-_shared_pixels(true, predicted).astype(np.float64), 0.0, nearest=True)
    elif matching == "hungarian":
        pairs = _assign(distance, limit)
    else:
        pairs = _greedy(distance, limit, nearest=matching == "nearest")
    return tuple(Match(t, p, float(distance[t, p])) for t, p in pairs)


def _greedy(cost: npt.NDArray[np.float64], limit: float, nearest: bool) -> list[tuple[int, int]]:
    """Each row in turn takes the first, or cheapest, free column with cost < limit."""
    pairs = []
    close = cost < limit
    free = np.ones(cost.shape[1], np.bool_)
    for row in np.flatnonzero(close.any(axis=1)).tolist():
        columns = np.flatnonzero(close[row] & free)
        if columns.size:
            column = int(columns[np.argmin(cost[row, columns])] if nearest else columns[0])
            free[column] = False
            pairs.append((row, column))
    return pairs


def _assign(distance: npt.NDArray[np.float64], limit: float) -> list[tuple[int, int]]:
    """Most pairs closer than the limit and, among those assignments, the least total distance."""
    # One forbidden pair costs more than all allowed ones together, so none is taken that can be avoided.
    forbidden = limit * (min(distance.shape) + 1)
    rows, columns = linear_sum_assignment(np.where(distance < limit, distance, forbidden))
    return [(t, p) for t, p in zip(rows.tolist(), columns.tolist(), strict=True) if distance[t, p] < limit]


def _shared_pixels(true: Regions, predicted: Regions) -> npt.NDArray[np.int64]:
    """int64 [targets, predictions]: how many pixels each pair shares."""
    both = np.flatnonzero((true.labels > 0) & (predicted.labels > 0))
    pair = true.labels.reshape(-1)[both].astype(np.int64) - 1
    pair = pair * predicted.count + predicted.labels.reshape(-1)[both] - 1
    shared = np.bincount(pair, minlength=true.count * predicted.count)
    return shared.reshape(true.count, predicted.count).astype(np.int64, copy=False)
