"""Terrain, seen obliquely or from above."""

from __future__ import annotations

import numpy as np

from ._fields import gradient, log_uniform, power_law_field, smoothstep
from ._structures import add_structure


def ground(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Ridges, strips of land and bushes under a sky; or fields and roads from above."""
    return _oblique(rng, size) if rng.random() < 0.65 else _from_above(rng, size)


def _oblique(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A sky, ridges, then strips that grow towards the viewer, each with its own level and texture."""
    height, width = size
    rows, columns = np.indices(size, np.float64)
    field = rng.uniform(15, 110) + gradient(rng, size, rng.uniform(1, 10))
    top = rng.uniform(0.0, 0.45) * height if rng.random() < 0.75 else -0.05 * height
    level = rng.uniform(60, 160)
    contrast = log_uniform(rng, 3, 28)
    roughness = log_uniform(rng, 0.7, 9)
    relief = rng.uniform(0.01, 0.06) * height
    step = 0.06 * height
    while top < height:
        edge = top + relief * power_law_field(rng, (1, width), rng.uniform(2.1, 3.4))[0]
        slope = rng.normal(0, 0.04)
        texture = power_law_field(rng, size, rng.uniform(1.6, 2.4), stretch=(1.0, rng.uniform(2.0, 6.0)))
        strip = level + contrast * rng.standard_normal() + roughness * texture
        if rng.random() < 0.5:
            strip = _bushes(rng, strip, contrast)
        share = smoothstep((rows - edge - slope * (columns - width / 2)) / log_uniform(rng, 1, 5) + 0.5)
        field = field * (1 - share) + strip * share
        top += step * rng.uniform(0.6, 1.6)
        step *= 1.35
        relief *= 0.6
    if rng.random() < 0.2:
        field = add_structure(rng, field)
    return field


def _bushes(rng: np.random.Generator, strip: np.ndarray, contrast: float) -> np.ndarray:
    """Blotches, darker or brighter than the land, that gather in rows."""
    spots = power_law_field(rng, strip.shape, 1.6, stretch=(1.0, 2.0), band=(0.02, 0.35))
    rows_of_them = power_law_field(rng, strip.shape, 2.4, stretch=(1.0, 10.0))
    cover = smoothstep((spots + rows_of_them - rng.uniform(0.8, 2.0)) / 0.6)
    sign = -1.0 if rng.random() < 0.6 else 1.0
    return strip + sign * rng.uniform(0.8, 2.0) * contrast * cover


def _from_above(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Fields divided by straight lines, with tracks and roads."""
    height, width = size
    rows, columns = np.indices(size, np.float64)
    grain = power_law_field(rng, size, rng.uniform(1.0, 2.2))
    field = rng.uniform(60, 170) + gradient(rng, size, rng.uniform(1, 15)) + log_uniform(rng, 1, 14) * grain
    field += log_uniform(rng, 3, 20) * power_law_field(rng, size, 2.8)
    contrast = log_uniform(rng, 3, 30)
    heading = rng.uniform(0, np.pi)
    for _ in range(int(rng.integers(0, 5))):
        angle = heading + rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.08)
        through = rng.uniform(0, height), rng.uniform(0, width)
        away = np.cos(angle) * (rows - through[0]) + np.sin(angle) * (columns - through[1])
        away = away + 1.5 * power_law_field(rng, size, 3.6)
        if rng.random() < 0.5:
            field += contrast * rng.standard_normal() * smoothstep(away + 0.5)
        else:
            half = rng.uniform(0.8, 4.0)
            road = smoothstep((half - np.abs(away)) + 0.5)
            field += rng.choice([-1.0, 1.0]) * rng.uniform(1.0, 2.5) * contrast * road
    return field
