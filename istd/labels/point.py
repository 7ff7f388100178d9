"""No region at all: the first label is the annotated pixels alone, as in LESPS (Ying et al., CVPR 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ._checks import IntArray
from ._initial import InitialLabels, register_initialization


@dataclass(frozen=True)
class PointSettings:
    """Nothing to set."""


@register_initialization("points", PointSettings)
def point_labels(image: npt.NDArray[np.uint8], points: IntArray, settings: Any) -> InitialLabels:
    """1 on each annotated pixel, 0 elsewhere; every point succeeds, so every image trains from the start."""
    mask = np.zeros(image.shape, np.float32)
    mask[points[:, 0], points[:, 1]] = 1.0
    return InitialLabels(mask, np.ones(len(points), np.bool_))
