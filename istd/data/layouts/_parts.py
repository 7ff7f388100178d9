"""What a layout finds in a folder, before anything is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Parts:
    """The files of a dataset, by the names of its images.

    Attributes:
        splits: 'train', 'val' and 'test' → names, as listed: they may repeat, and may name no image.
        split_files: split → the file it was read from, named where an entry has no image.
        images: name → image file; may hold images that no split names.
        masks: name → mask file; None if the dataset has no masks.
        masks_optional: whether an image may lack a mask where others have one.
        points: name → int64 [N, 2], rows (y, x), where a file lists them; None where none does.
        point_images: name → image of dots, used where `points` is None; None if there are none.
    """

    splits: Mapping[str, tuple[str, ...]]
    images: Mapping[str, Path]
    split_files: Mapping[str, Path] = field(default_factory=dict)
    masks: Mapping[str, Path] | None = None
    masks_optional: bool = False
    points: Mapping[str, np.ndarray] | None = None
    point_images: Mapping[str, Path] | None = None
