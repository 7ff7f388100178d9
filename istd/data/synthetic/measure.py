"""How a target stands out from its surroundings, in real and in synthetic images alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..._regions import find_regions

_MARGIN = 10
_GAP = 2


@dataclass(frozen=True)
class TargetMeasure:
    """One target against its ring.

    The ring is the bounding box of the target and 10 pixels on each side, without all targets and the 2
    pixels around them.

    Attributes:
        area: pixels of the mask's component.
        contrast: mean of the target minus mean of the ring, in gray levels.
        peak: maximum of the target minus mean of the ring, in gray levels.
        scr: signal-to-clutter ratio, the contrast divided by the standard deviation of the ring.
    """

    area: int
    contrast: float
    peak: float
    scr: float


def measure_targets(image: np.ndarray, mask: np.ndarray) -> list[TargetMeasure]:
    """Measure every 8-connected component of `mask` (bool [H, W]) in `image` (gray [H, W]).

    Targets come in the order of `centroid_points`. A ring without pixels or without variation gives an
    infinite or undefined (nan) ratio.
    """
    labels = find_regions(mask).labels
    near = ndimage.binary_dilation(mask, np.ones((3, 3)), _GAP)
    values = image.astype(np.float64)
    measures = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        window = (
            slice(max(0, rows.start - _MARGIN), rows.stop + _MARGIN),
            slice(max(0, columns.start - _MARGIN), columns.stop + _MARGIN),
        )
        target, ring = values[labels == label], values[window][~near[window]]
        mean, deviation = (float(ring.mean()), float(ring.std())) if ring.size else (np.nan, np.nan)
        contrast = float(target.mean()) - mean
        ratio = contrast / deviation if deviation != 0 else float(np.copysign(np.inf, contrast))
        measures.append(TargetMeasure(target.size, contrast, float(target.max()) - mean, ratio))
    return measures
