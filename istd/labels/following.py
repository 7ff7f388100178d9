"""Label evolution that falls as fast as it rises.

The published rule (`evolution.py`) moves a pixel half-way to the prediction where the prediction is kept, and
multiplies the label by 0.97 elsewhere. A pixel that is newly predicted enters the target after two steps; one
that is predicted no longer leaves after 23. Predictions at a boundary fluctuate, so labels grow: whatever was
predicted once stays. Here a target with a kept region follows its prediction both ways. A target without one
keeps its label but for the decay. The threshold of a region is a share of the highest prediction around it,
so a faint prediction keeps a region too, and the label falls towards it.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .._regions import label_mask
from .evolution import EvolutionSettings, evolve, kept_regions

_FAINT = 1 / 255
"""Labels decay and are halved, but never end: below this they hold no two targets together."""

_Float = TypeVar("_Float", np.float32, np.float64)


def evolve_both_ways(
    pred: npt.NDArray[np.floating[Any]],
    label: npt.NDArray[_Float],
    points: npt.ArrayLike,
    settings: EvolutionSettings | None = None,
) -> npt.NDArray[_Float]:
    """One evolution step in which the labels of predicted targets also fall towards the prediction.

    Args:
        pred: float [H, W], probabilities within [0, 1] at the label's size.
        label: float32 or float64 [H, W], within [0, 1].
        points: integer [N, 2], rows (y, x), the annotated pixels; they stay at 1.
        settings: the defaults if None. `decay` acts on what no prediction answers.

    Returns:
        A new label of the label's dtype: that of `evolve`, and (label + pred)/2 on every connected region
        {label > 1/255} that meets a kept region.

    Raises:
        LabelError: sizes differ or values lie outside [0, 1]; DataError: a point lies outside the image.
    """
    settings = settings if settings is not None else EvolutionSettings()
    evolved = evolve(pred, label, points, settings)
    kept = kept_regions(pred, label, settings)
    count, regions = label_mask(label > _FAINT, settings.connectivity)
    answered = np.zeros(count + 1, np.bool_)
    answered[regions[kept]] = True
    answered[0] = False
    follows = np.flatnonzero(answered[regions] & ~kept)
    held = np.zeros(label.shape, np.bool_)
    where = np.asarray(points, np.int64).reshape(-1, 2)
    held[where[:, 0], where[:, 1]] = True
    if settings.lock == "saturated":
        held |= label == 1.0
    follows = follows[~held.reshape(-1)[follows]]
    old, new = label.reshape(-1)[follows], pred.reshape(-1)[follows].astype(label.dtype)
    evolved.reshape(-1)[follows] = (old + new) / 2
    return evolved
