"""What optics and detector do to a scene."""

from __future__ import annotations

import cv2
import numpy as np

from ._fields import log_uniform


def blur(field: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian point spread of the optics; `sigma` in pixels."""
    return cv2.GaussianBlur(field, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)


def sensor_noise(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Noise in gray levels, float64 [H, W], of random strength.

    Gaussian noise per pixel (in some images grainy, as after interpolation or compression), plus a fixed
    pattern per column and per row as scanning and column-parallel detectors have, plus rare stuck pixels.
    """
    height, width = size
    grain = rng.standard_normal(size)
    if rng.random() < 0.5:
        grain = blur(grain, rng.uniform(0.5, 0.9))
        grain /= grain.std()
    noise = float(np.clip(rng.lognormal(np.log(0.45), 0.9), 0.25, 8.0)) * grain
    if rng.random() < 0.4:
        noise += log_uniform(rng, 0.1, 1.2) * rng.standard_normal((1, width))
    if rng.random() < 0.15:
        noise += log_uniform(rng, 0.1, 1.5) * rng.standard_normal((height, 1))
    if rng.random() < 0.05:
        count = int(rng.integers(1, 4))
        noise[rng.integers(0, height, count), rng.integers(0, width, count)] += rng.uniform(-60, 60, count)
    return noise
