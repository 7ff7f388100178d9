"""Descriptors of the distribution of gray levels."""

from __future__ import annotations

import numpy as np

from ._prepared import Prepared, compress, entropy, ratio

NAMES = (
    "mean",
    "std",
    "entropy",
    "p01",
    "p05",
    "p25",
    "p50",
    "p75",
    "p95",
    "p99",
    "dynamic_range",
    "skewness_log",
    "kurtosis_log",
    "gini",
    "otsu_threshold",
    "otsu_foreground",
    "otsu_separability",
)


def describe(image: Prepared) -> dict[str, float]:
    """Moments, quantiles, inequality, and how well one threshold splits the image (Otsu 1979)."""
    p = image.histogram
    levels = np.arange(256, dtype=np.float64)
    centred = levels - image.mean
    variance = image.std**2
    present = np.flatnonzero(p)
    quantiles = {f"p{share:02d}": image.quantile(share / 100) for share in (1, 5, 25, 50, 75, 95, 99)}
    below, mass = np.cumsum(p), np.cumsum(p * levels)
    between = np.zeros(256)
    splits = (below > 1e-12) & (below < 1 - 1e-12)
    between[splits] = (image.mean * below[splits] - mass[splits]) ** 2 / (below[splits] * (1 - below[splits]))
    threshold = int(between.argmax())
    return {
        "mean": image.mean,
        "std": image.std,
        "entropy": entropy(p),
        **quantiles,
        "dynamic_range": float(present[-1] - present[0]),
        "skewness_log": compress(ratio(float(p @ centred**3), variance**1.5)),
        "kurtosis_log": compress(ratio(float(p @ centred**4), variance**2) - 3.0),
        "gini": _gini(p, float(present[0])),
        "otsu_threshold": float(threshold),
        "otsu_foreground": float(1.0 - below[threshold]) if variance > 0 else 0.0,
        "otsu_separability": ratio(float(between[threshold]), variance),
    }


def _gini(shares: np.ndarray, lowest: float) -> float:
    """Gini coefficient of the gray levels above the lowest one, from their histogram."""
    above = np.arange(256, dtype=np.float64) - lowest
    mass = np.cumsum(shares * np.maximum(above, 0.0))
    # Area under the Lorenz curve by trapezoids, one for each gray level.
    area = float((shares * (mass - 0.5 * shares * np.maximum(above, 0.0))).sum())
    return 1.0 - 2.0 * ratio(area, float(mass[-1])) if mass[-1] > 0 else 0.0
