"""Descriptors of the power spectrum: how clutter is spread over scales and directions."""

from __future__ import annotations

import numpy as np
from scipy import fft

from ._prepared import Prepared, ratio, slope

NAMES = (
    "spectrum_slope",
    "spectrum_low",
    "spectrum_high",
    "spectrum_centroid",
    "spectrum_bandwidth",
    "spectrum_flatness",
    "spectrum_anisotropy",
)
_BINS = 48  # rings between the frequencies 0 and ½ cycle per pixel, the same for every size of image


def describe(image: Prepared) -> dict[str, float]:
    """Radial mean of the windowed power spectrum, in cycles per pixel, so that sizes compare."""
    height, width = image.pixels.shape
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]).astype(np.float32)
    shape = (fft.next_fast_len(height, real=True), fft.next_fast_len(width, real=True))
    spectrum = fft.rfft2((image.values - np.float32(image.mean)) * window, shape)
    power = spectrum.real.astype(np.float64) ** 2 + spectrum.imag.astype(np.float64) ** 2
    fy, fx = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None]
    radius = np.sqrt(fy * fy + fx * fx)
    ring = np.minimum((radius * (2 * _BINS)).astype(np.int64), _BINS).reshape(-1)
    count = np.bincount(ring, minlength=_BINS + 1)[:_BINS]
    filled = count > 0
    filled[0] = False  # the ring around frequency 0 holds the window, not the image
    frequency = ((np.arange(_BINS) + 0.5) / (2 * _BINS))[filled]
    radial = np.bincount(ring, weights=power.reshape(-1), minlength=_BINS + 1)[:_BINS][filled] / count[filled]
    total = float(radial.sum())
    if total <= 1e-12:
        return dict.fromkeys(NAMES, 0.0)
    log_power = np.log(radial + 1e-12 * total)
    centroid = float((frequency * radial).sum()) / total
    spread = float(((frequency - centroid) ** 2 * radial).sum()) / total
    middle = (radius > 0.02) & (radius < 0.4)
    across, along = float((power * fx * fx)[middle].sum()), float((power * fy * fy)[middle].sum())
    return {
        "spectrum_slope": slope(np.log(frequency), log_power),
        "spectrum_low": float(radial[frequency < 0.05].sum()) / total,
        "spectrum_high": float(radial[frequency > 0.25].sum()) / total,
        "spectrum_centroid": centroid,
        "spectrum_bandwidth": float(np.sqrt(spread)),
        "spectrum_flatness": float(np.exp(log_power.mean())) / (total / len(radial)),
        "spectrum_anisotropy": ratio(abs(across - along), across + along),
    }
