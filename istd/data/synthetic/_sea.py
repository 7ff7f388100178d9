"""The sea, with waves that shrink towards the horizon."""

from __future__ import annotations

import numpy as np

from ._fields import gradient, log_uniform, look_up, power_law_field, smoothstep


def sea(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Water under a horizon, which may lie above the frame; glitter where the sun is."""
    height, width = size
    horizon = rng.uniform(0.1, 0.7) * height if rng.random() < 0.65 else -rng.uniform(0.3, 2.0) * height
    rows, columns = np.indices(size, np.float64)
    below = rows - horizon - rng.normal(0, 0.02) * (columns - width / 2)
    waves = _waves(rng, np.maximum(below, 0.0))
    level = rng.uniform(40, 170)
    water = level + gradient(rng, size, rng.uniform(2, 20)) + log_uniform(rng, 1.5, 22) * waves
    if rng.random() < 0.35:
        water += _glitter(rng, columns / width, below / height, waves)
    above = level + rng.normal(0, 35) + gradient(rng, size, rng.uniform(2, 40))
    above += log_uniform(rng, 0.5, 6) * power_law_field(rng, size, 3.2, stretch=(1.0, 3.0))
    share = smoothstep(below + 0.5)
    return above * (1 - share) + water * share


def _waves(rng: np.random.Generator, below: np.ndarray) -> np.ndarray:
    """Wave texture on a plane seen at a grazing angle; about unit variance near the viewer.

    A row `below` pixels under the horizon is at a distance of 1/below (the nearest row: 1), so the texture is
    looked up at rows proportional to the distance and columns proportional to it too.
    """
    height, width = below.shape
    near = max(float(below.max()), 1.0)
    distance = near / np.maximum(below, 0.05 * near)
    texture_size = (2 * height, 3 * width)
    long = rng.uniform(2.0, 5.0)
    swell = power_law_field(rng, texture_size, 2.4, stretch=(1.0, long), band=(0.01, 0.3))
    ripple = power_law_field(rng, texture_size, 1.2, stretch=(1.0, 0.7 * long), band=(0.06, 0.5))
    texture = swell + rng.uniform(0.2, 0.9) * ripple
    columns = (np.indices(below.shape)[1] - width / 2) * distance**0.7 + 1.5 * width
    waves = look_up(texture, near * (distance - 1), columns)
    # Far away one pixel averages over many waves, and at the horizon over all of them.
    return waves / distance**0.6 * smoothstep(below / (0.1 * near))


def _glitter(
    rng: np.random.Generator, across: np.ndarray, below: np.ndarray, waves: np.ndarray
) -> np.ndarray:
    """The sun's path on the water: a bright column where the crests sparkle."""
    column = np.exp(-(((across - rng.uniform(0, 1)) / rng.uniform(0.2, 0.8)) ** 2))
    row = np.exp(-(((below - rng.uniform(0, 0.6)) / rng.uniform(0.1, 0.4)) ** 2))
    strength = rng.uniform(30, 130)
    return strength * column * row * np.exp(0.4 * np.clip(waves, -3, 3))
