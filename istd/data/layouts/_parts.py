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
        points: name → int64 [N, 2], rows (y, x), where a file lists them; None where none does.
        point_images: name → image of dots, used where `points` is None; None if there are none.
    """

    splits: Mapping[str, tuple[str, ...]]
    images: Mapping[str, Path]
    split_files: Mapping[str, Path] = field(default_factory=dict)
    masks: Mapping[str, Path] | None = None
    points: Mapping[str, np.ndarray] | None = None
    point_images: Mapping[str, Path] | None = None

    def is_labelled(self, name: str) -> bool:
        """Whether something says where the targets of an image are: the point file, its dots, or its mask.

        Of a dataset that has none of these, as before annotation, nothing is asked.
        """
        sources = [files for files in (self.point_images, self.masks) if files is not None]
        return self.points is not None or not sources or any(name in files for files in sources)

    def unannotated(self) -> tuple[str, ...]:
        """The images to learn from that the point file does not name, in order; none without a point file.

        Perhaps nobody has looked at them yet. Validation images with a mask do not count: it is what a
        detector is chosen by.
        """
        if self.points is None:
            return ()
        masks = self.masks or {}
        val = [name for name in self.splits.get("val", ()) if name not in masks]
        names = dict.fromkeys((*self.splits.get("train", ()), *val))
        return tuple(name for name in names if name in self.images and name not in self.points)
