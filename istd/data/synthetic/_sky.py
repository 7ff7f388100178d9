"""Clear and clouded skies."""

from __future__ import annotations

import numpy as np

from ._fields import gradient, log_uniform, look_up, power_law_field, smoothstep
from ._structures import add_structure


def sky(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Clear sky: a slow gradient and faint haze; now and then stray light from one side, or a mast."""
    field = rng.uniform(30, 200) + gradient(rng, size, log_uniform(rng, 1, 40))
    field += log_uniform(rng, 0.3, 6) * power_law_field(rng, size, rng.uniform(2.8, 3.6))
    if rng.random() < 0.15:
        field += _stray_light(rng, size)
    if rng.random() < 0.15:
        field = add_structure(rng, field)
    return field


def cloud(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Clouds before a sky, from thin veils to bright cumulus with hard edges."""
    base = rng.uniform(10, 160) + gradient(rng, size, rng.uniform(2, 20))
    stretch = (1.0, log_uniform(rng, 1.0, 4.0))
    shape = power_law_field(rng, size, rng.uniform(2.7, 3.5), stretch=stretch, angle=rng.normal(0, 0.4))
    # Slow fields that push the shape around draw the wisps.
    reach = rng.uniform(0, 0.05) * max(size)
    push_y, push_x = (reach * power_law_field(rng, size, 3.4) for _ in range(2))
    rows, columns = np.indices(size)
    shape = look_up(shape, rows + push_y, columns + push_x)
    # Optical depth above a threshold; the fewer deviations one depth takes, the harder the cloud's edge.
    edge = log_uniform(rng, 0.25, 2.5)
    depth = np.maximum(shape - rng.uniform(-1.2, 0.8), 0.0) ** rng.uniform(1.0, 1.6) / edge
    shading = 0.85 + 0.25 * power_law_field(rng, size, rng.uniform(2.8, 3.4))
    brightness = log_uniform(rng, 15, 200) if edge > 0.8 else rng.uniform(40, 220)
    return base + brightness * (1 - np.exp(-depth)) * shading


def _stray_light(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Light that comes in from one side and may saturate."""
    height, width = size
    rows, columns = np.indices(size, np.float64)
    angle = rng.uniform(0, 2 * np.pi)
    reach = max(height, width)
    distance = np.cos(angle) * (rows - height / 2) + np.sin(angle) * (columns - width / 2)
    bend = 0.08 * reach * power_law_field(rng, size, 4.0)
    depth = (distance + bend - rng.uniform(0.0, 0.3) * reach) / (rng.uniform(0.2, 0.6) * reach)
    return rng.uniform(60, 220) * smoothstep(depth)
