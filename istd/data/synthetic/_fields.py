"""Random textures: Gaussian fields with a chosen power spectrum."""

from __future__ import annotations

import cv2
import numpy as np


def power_law_field(
    rng: np.random.Generator,
    size: tuple[int, int],
    beta: float,
    *,
    stretch: tuple[float, float] = (1.0, 1.0),
    angle: float = 0.0,
    band: tuple[float, float] = (0.0, 0.5),
) -> np.ndarray:
    """A Gaussian random field with power spectrum 1/f^beta inside a frequency band, by spectral synthesis.

    Infrared clutter has such spectra: beta is near 3 for clouds, near 2 for terrain, 0 for white noise.

    Args:
        rng: where the phases come from.
        size: (height, width) in pixels.
        beta: the exponent; larger is smoother.
        stretch: how much longer structures are along the two axes (y, x) before the rotation.
        angle: rotation of the axes, in radians.
        band: lowest and highest frequency kept, in cycles a pixel, along the axis that is not stretched.

    Returns:
        float64 [H, W] with mean 0 and standard deviation 1.
    """
    # A field made by FFT is periodic; a larger one, cut, does not show it.
    height, width = (cv2.getOptimalDFTSize(int(side * 1.25) + 8) for side in size)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    along_y = (np.cos(angle) * fy - np.sin(angle) * fx) * stretch[0]
    along_x = (np.sin(angle) * fy + np.cos(angle) * fx) * stretch[1]
    frequency = np.hypot(along_y, along_x)
    # Below one period in the frame the amplitude stays level, else the field is but a ramp.
    amplitude = np.maximum(frequency, 1.0 / max(height, width)) ** (-beta / 2)
    amplitude[(frequency < band[0]) | (frequency > band[1])] = 0
    amplitude[0, 0] = 0
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    field = np.fft.irfft2(spectrum * amplitude, (height, width))[: size[0], : size[1]]
    field = field - field.mean()
    return field / max(float(field.std()), 1e-12)


def look_up(field: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """`field` [h, w] at fractional positions [H, W], bilinear, mirrored beyond its border; float32 [H, W]."""
    places = columns.astype(np.float32), rows.astype(np.float32)
    return cv2.remap(field.astype(np.float32), *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def gradient(rng: np.random.Generator, size: tuple[int, int], strength: float) -> np.ndarray:
    """A slow change across the frame, mostly vertical, of standard deviation about `strength`."""
    rows, columns = np.meshgrid(*(np.linspace(-1.7, 1.7, side) for side in size), indexing="ij")
    angle = rng.normal(0, 0.4) + (np.pi if rng.random() < 0.5 else 0.0)
    ramp = np.cos(angle) * rows + np.sin(angle) * columns
    bowl = (rows**2 + columns**2) / 3 - 0.7
    return strength * (ramp + rng.normal(0, 0.3) * bowl)


def smoothstep(value: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, and a smooth rise between."""
    value = np.clip(value, 0.0, 1.0)
    return value * value * (3 - 2 * value)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number whose logarithm is uniform between those of `low` and `high`."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
