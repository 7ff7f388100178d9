"""Infrared backgrounds without targets and noise, by name.

Each maker takes a generator and (height, width), and answers gray levels as float64 [H, W], meant for 0 to
255 but not clipped.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ._ground import ground
from ._sea import sea
from ._sky import cloud, sky

BACKGROUNDS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "sky": sky,
    "cloud": cloud,
    "sea": sea,
    "ground": ground,
}
"""Every background by name."""
