"""One image with what is known about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class DataWarning(UserWarning):
    """Data that were mended before use; the message names the image and says how."""


@dataclass(frozen=True)
class Record:
    """One image of a dataset.

    Attributes:
        name: its name in the splits, without folder and suffix.
        image: uint8 [H, W].
        mask: bool [H, W], true on targets; None where the dataset has no masks.
        points: int64 [N, 2], one row (y, x) per target, inside the image; N may be 0.
        note: what had to be mended while reading, or None.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray | None
    points: np.ndarray
    note: str | None = None
