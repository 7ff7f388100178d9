"""Descriptors of global and local contrast: what a small bright target has to stand out from."""

from __future__ import annotations

import cv2
import numpy as np

from ._prepared import Prepared, compress, ratio

NAMES = (
    "rms_contrast",
    "tail_p95_log",
    "tail_p99_log",
    "tail_max_log",
    "local_contrast_fine_log",
    "local_contrast_coarse_log",
    "blob_p99_log",
    "tophat_mean_log",
    "tophat_p99_log",
    "peak_density",
)
_MAD_TO_SIGMA = 1.4826  # of a normal distribution


def describe(image: Prepared) -> dict[str, float]:
    """Contrast of the whole, of the bright tail in robust deviations, and of neighbourhoods."""
    median = image.quantile(0.5)
    distance = np.abs(np.arange(256) - median)
    order = np.argsort(distance, kind="stable")
    mad = float(distance[order][np.searchsorted(np.cumsum(image.histogram[order]), 0.5 - 1e-12)])
    # Smooth backgrounds have a MAD of one gray level or none; below that, tails would be divided by noise.
    sigma = max(_MAD_TO_SIGMA * mad, 1.0)
    blob = image.blurred(1.0) - image.blurred(2.0)
    tophat = cv2.morphologyEx(image.pixels, cv2.MORPH_TOPHAT, np.ones((9, 9), np.uint8))
    # Every pixel of a plateau is a local maximum; those that stand out from their neighbourhood are peaks.
    smooth = image.blurred(1.0)
    highest = cv2.dilate(smooth, np.ones((5, 5), np.uint8))
    peaks = (smooth == highest) & (smooth > image.mean + image.std) & (smooth > image.blurred(4.0) + 2.0)
    return {
        "rms_contrast": ratio(image.std, image.mean),
        "tail_p95_log": compress((image.quantile(0.95) - median) / sigma),
        "tail_p99_log": compress((image.quantile(0.99) - median) / sigma),
        "tail_max_log": compress((float(image.pixels.max()) - median) / sigma),
        "local_contrast_fine_log": compress(float(np.abs(image.blurred(1.0) - image.blurred(4.0)).mean())),
        "local_contrast_coarse_log": compress(float(np.abs(image.blurred(2.0) - image.blurred(8.0)).mean())),
        "blob_p99_log": compress(float(np.percentile(blob, 99))),
        "tophat_mean_log": compress(float(tophat.mean())),
        "tophat_p99_log": compress(float(np.percentile(tophat, 99))),
        "peak_density": float(np.count_nonzero(peaks)) / image.pixels.size * 1e3,
    }
