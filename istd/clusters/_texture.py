"""Descriptors of texture: gray-level co-occurrence (Haralick 1973) and local binary patterns (Ojala 2002)."""

from __future__ import annotations

import numpy as np

from ._prepared import Prepared, compress, entropy, ratio

NAMES = (
    "glcm_contrast_log",
    "glcm_homogeneity",
    "glcm_energy",
    "glcm_correlation",
    "glcm_entropy",
    "glcm_contrast_ratio",
    "lbp_entropy",
    "lbp_uniform",
    "lbp_flat",
    "lbp_edge",
)
_LEVELS = 32
_DISTANCES = (1, 2, 4)
_DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1))  # rows, columns; the opposite ones follow by symmetry
_RING = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))


def describe(image: Prepared) -> dict[str, float]:
    """Means over distances 1, 2, 4 and four directions of 32-level co-occurrence; 3×3 uniform patterns."""
    quantised = (image.pixels >> 3).astype(np.int32)
    contrasts = []
    sums = np.zeros(5)
    for distance in _DISTANCES:
        per_distance = 0.0
        for row, column in _DIRECTIONS:
            values = _haralick(_cooccurrence(quantised, row * distance, column * distance))
            per_distance += values[0]
            sums += values
        contrasts.append(per_distance / len(_DIRECTIONS))
    sums /= len(_DISTANCES) * len(_DIRECTIONS)
    patterns = _uniform_patterns(image.pixels)
    return {
        "glcm_contrast_log": compress(float(sums[0])),
        "glcm_homogeneity": float(sums[1]),
        "glcm_energy": float(sums[2]),
        "glcm_correlation": float(sums[3]),
        "glcm_entropy": float(sums[4]),
        "glcm_contrast_ratio": ratio(contrasts[0], contrasts[-1]),
        "lbp_entropy": entropy(patterns),
        "lbp_uniform": float(1.0 - patterns[9]),
        "lbp_flat": float(patterns[0] + patterns[8]),
        "lbp_edge": float(patterns[3:6].sum()),
    }


def _cooccurrence(levels: np.ndarray, down: int, right: int) -> np.ndarray:
    """Symmetric, normalised co-occurrence [32, 32] of pixels `down` rows and `right` columns apart."""
    height, width = levels.shape
    left = max(0, -right)
    first = levels[: height - down, left : width - max(0, right)]
    second = levels[down:, left + right : width - max(0, right) + right]
    counts = np.bincount((first * _LEVELS + second).reshape(-1), minlength=_LEVELS**2).reshape(
        _LEVELS, _LEVELS
    )
    counts = counts + counts.T
    return counts / counts.sum()


_I, _J = np.meshgrid(np.arange(_LEVELS), np.arange(_LEVELS), indexing="ij")
_DIFFERENCE = ((_I - _J) ** 2).astype(np.float64)
_NEARNESS = 1.0 / (1.0 + _DIFFERENCE)


def _haralick(p: np.ndarray) -> np.ndarray:
    """Contrast, homogeneity, energy, correlation and entropy (bits) of a co-occurrence."""
    axis = np.arange(_LEVELS, dtype=np.float64)
    marginal = p.sum(axis=1)
    mean = marginal @ axis
    variance = marginal @ (axis - mean) ** 2
    contrast = float((p * _DIFFERENCE).sum())
    # Of a symmetric distribution Σ p (i − j)² = 2·(variance − covariance).
    correlation = 1.0 - contrast / (2.0 * variance) if variance > 1e-12 else 1.0
    return np.array([contrast, (p * _NEARNESS).sum(), np.sqrt((p * p).sum()), correlation, entropy(p)])


def _uniform_patterns(pixels: np.ndarray) -> np.ndarray:
    """Shares of the ten uniform 3×3 patterns: 0…8 neighbours not darker in one run, and all others."""
    centre = pixels[1:-1, 1:-1]
    height, width = pixels.shape
    code = np.zeros(centre.shape, np.uint8)
    for bit, (row, column) in enumerate(_RING):
        neighbour = pixels[1 + row : height - 1 + row, 1 + column : width - 1 + column]
        code |= (neighbour >= centre).view(np.uint8) << bit
    codes = np.bincount(code.reshape(-1), minlength=256)
    return np.bincount(_CLASS_OF_CODE, weights=codes, minlength=10) / code.size


def _class_of_code() -> np.ndarray:
    """Each of the 256 codes' class: the number of ones if they form one run around the ring, else 9."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    changes = (bits != np.roll(bits, 1, axis=1)).sum(axis=1)
    return np.where(changes <= 2, bits.sum(axis=1), 9)


_CLASS_OF_CODE = _class_of_code()
