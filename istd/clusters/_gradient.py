"""Descriptors of edges: how strong, how many, and whether they have a direction."""

from __future__ import annotations

import cv2
import numpy as np

from ._prepared import Prepared, compress, entropy, ratio

NAMES = (
    "laplacian_variance_log",
    "gradient_mean_log",
    "gradient_std_log",
    "gradient_p95_log",
    "gradient_energy_log",
    "orientation_entropy",
    "anisotropy",
    "coherence",
    "edge_density",
    "corner_strength_log",
)
_ORIENTATIONS = 36


def describe(image: Prepared) -> dict[str, float]:
    """Derivatives at pixel scale, and the structure tensor over neighbourhoods of about 4 px."""
    gx, gy, magnitude = image.gradient
    energy = magnitude * magnitude
    # A quarter of a bin off, so that the many gradients at exactly 0°, 45°, 90°, … lie on no boundary.
    turns = np.arctan2(gy, gx) / (2 * np.pi) + 0.25 / _ORIENTATIONS
    bins = np.floor(turns * _ORIENTATIONS).astype(np.int32) % _ORIENTATIONS
    strength = np.bincount(bins.reshape(-1), weights=magnitude.reshape(-1), minlength=_ORIENTATIONS)
    total = float(strength.sum())
    xx, yy, xy = float((gx * gx).mean()), float((gy * gy).mean()), float((gx * gy).mean())
    local_xx, local_yy, local_xy = (
        cv2.GaussianBlur(a * b, (0, 0), 2.0) for a, b in ((gx, gx), (gy, gy), (gx, gy))
    )
    trace = local_xx + local_yy
    split = np.sqrt((local_xx - local_yy) ** 2 + 4 * local_xy * local_xy)
    mean = float(magnitude.mean())
    return {
        "laplacian_variance_log": compress(float(cv2.Laplacian(image.values, cv2.CV_32F).var())),
        "gradient_mean_log": compress(mean),
        "gradient_std_log": compress(float(magnitude.std())),
        "gradient_p95_log": compress(float(np.percentile(magnitude, 95))),
        "gradient_energy_log": compress(float(energy.mean())),
        "orientation_entropy": entropy(strength / total) if total > 0 else 0.0,
        "anisotropy": ratio(float(np.hypot(xx - yy, 2 * xy)), xx + yy),
        "coherence": ratio(float(split.mean()), float(trace.mean())),
        "edge_density": float((cv2.Canny(image.pixels, 40, 100) > 0).mean()),
        "corner_strength_log": compress(float(np.percentile((trace - split) / 2, 99))),
    }
