"""Descriptors of sensor noise and illumination."""

from __future__ import annotations

import cv2
import numpy as np

from ._prepared import Prepared, compress, ratio, slope

NAMES = (
    "noise_sigma_log",
    "residual_kurtosis_log",
    "mscn_variance",
    "mscn_kurtosis_log",
    "mscn_pair_horizontal",
    "mscn_pair_vertical",
    "stripe_columns_log",
    "stripe_rows_log",
    "illumination",
    "scale_slope",
    "scale_ratio_log",
)
_SCALES = (1.0, 2.0, 4.0, 8.0)


def describe(image: Prepared) -> dict[str, float]:
    """Noise after Immerkær 1996, normalised coefficients after BRISQUE (Mittal 2012), stripes, shading."""
    values = image.values
    residual = values - image.blurred(1.0)
    mu = image.blurred(7 / 6)
    variance = np.maximum(cv2.GaussianBlur(values * values, (0, 0), 7 / 6) - mu * mu, 0.0)
    mscn = (values - mu) / (np.sqrt(variance) + 1.0)
    mscn_variance = float(mscn.var())
    variances = np.array([float(image.blurred(sigma).var(dtype=np.float64)) for sigma in _SCALES])
    return {
        "noise_sigma_log": compress(_noise_sigma(values)),
        "residual_kurtosis_log": compress(_kurtosis(residual)),
        "mscn_variance": mscn_variance,
        "mscn_kurtosis_log": compress(_kurtosis(mscn)),
        "mscn_pair_horizontal": ratio(float((mscn[:, :-1] * mscn[:, 1:]).mean()), mscn_variance),
        "mscn_pair_vertical": ratio(float((mscn[:-1] * mscn[1:]).mean()), mscn_variance),
        "stripe_columns_log": compress(float(residual.mean(axis=0).std())),
        "stripe_rows_log": compress(float(residual.mean(axis=1).std())),
        "illumination": ratio(float(image.blurred(16.0).std()), image.std),
        "scale_slope": slope(np.log(np.array(_SCALES)), np.log(variances + 1e-6)),
        "scale_ratio_log": compress(float((variances[0] + 1e-6) / (variances[-1] + 1e-6))),
    }


def _noise_sigma(values: np.ndarray) -> float:
    """Standard deviation of the noise, from a Laplacian difference that edges and ramps hardly excite."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    return float(np.sqrt(np.pi / 2) / 6 * np.abs(cv2.filter2D(values, cv2.CV_32F, kernel)).mean())


def _kurtosis(values: np.ndarray) -> float:
    """Excess kurtosis; 0 of a constant."""
    centred = (values - values.mean()).astype(np.float64)
    square = centred * centred
    variance = float(square.mean())
    return ratio(float((square * square).mean()), variance * variance) - 3.0 if variance > 1e-6 else 0.0
