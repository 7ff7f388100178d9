"""A split in memory, ready to be cropped on the training device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import DataError
from ..ragged import ImageSource, RaggedImages
from ._record import DataWarning, Record
from .dataset import Dataset


@dataclass
class ImageSet:
    """Some images of a dataset, in memory.

    Attributes:
        names: their names, N of them.
        images: uint8 pixels.
        masks: 1 on targets and 0 elsewhere; None if any of the images lacks a mask.
        points: N arrays int64 [K, 2], rows (y, x); K may be 0.
    """

    names: tuple[str, ...]
    images: ImageSource
    masks: ImageSource | None
    points: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_points(self) -> int:
        """How many points all images have together."""
        return sum(len(points) for points in self.points)

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with its pixels on `device`; points stay on the host."""
        masks = None if self.masks is None else self.masks.to(device)
        return ImageSet(self.names, self.images.to(device), masks, self.points)


def load_names(
    dataset: Dataset,
    names: Sequence[str],
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Read images by name, in the given order.

    How many of them the dataset's point file does not name, which makes them images without a target, is said
    in a `DataWarning`.

    Args:
        dataset: where from.
        names: which; at least one.
        device: where the pixels go.
        progress: called with (images read, images in all) after each.

    Raises:
        DataError: no name, an unknown one, or an image that cannot be used.
    """
    if not names:
        raise DataError("there is no image to load", where=dataset.root, expected="at least one name")
    records = []
    for name in names:
        records.append(dataset.read(name))
        if progress is not None:
            progress(len(records), len(names))
    _warn_unannotated(dataset, records)
    masks = [record.mask for record in records if record.mask is not None]
    return ImageSet(
        names=tuple(names),
        images=RaggedImages.from_arrays([record.image for record in records], device=device),
        masks=(
            RaggedImages.from_arrays(masks, dtype=torch.uint8, device=device)
            if len(masks) == len(records)
            else None
        ),
        points=tuple(record.points for record in records),
    )


def _warn_unannotated(dataset: Dataset, records: Sequence[Record]) -> None:
    # Of an image with an empty mask it is known that there is no target.
    left = [
        record.name
        for record in records
        if record.name in dataset.unannotated and (record.mask is None or record.mask.any())
    ]
    if left:
        shown = ", ".join(left[:5]) + (", …" if len(left) > 5 else "")
        warnings.warn(
            f"{len(left)} of {len(records)} images are not in the point file, so they count as images "
            f"without a target: {shown}; see `istd annotate`",
            DataWarning,
            stacklevel=3,
        )


def load_split(
    dataset: Dataset,
    split: str | Sequence[str],
    device: torch.device | str = "cpu",
    *,
    require_points: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Read a whole split, or several one after the other.

    Args:
        dataset: where from.
        split: 'train', 'val' or 'test', or several, such as ('train', 'val').
        device: where the pixels go.
        require_points: refuse a set without a single point; if None, where 'train' is among the splits.
        progress: called with (images read, images in all) after each.

    Raises:
        DataError: an unknown or empty split, no point where one is required, an image that cannot be used.
    """
    splits = (split,) if isinstance(split, str) else tuple(split)
    for one in splits:
        if one not in dataset.splits:
            raise DataError(
                f"there is no split {one!r}", where=dataset.root, expected=", ".join(dataset.splits)
            )
        if not dataset.splits[one]:
            raise DataError(
                f"the split {one!r} is empty",
                where=dataset.root,
                found=repr(dataset),
                expected="at least one image name",
                fix="name images in its split file",
            )
    names = [name for one in dict.fromkeys(splits) for name in dataset.splits[one]]
    images = load_names(dataset, names, device, progress)
    needs_points = "train" in splits if require_points is None else require_points
    if needs_points and images.num_points == 0:
        raise DataError(
            f"there is not a single point in {' + '.join(splits)}, so there is nothing to learn from",
            where=dataset.root,
            found=f"{len(names)} images, "
            + ("all masks are empty" if images.masks is not None else "no masks and no point file"),
            expected="one point (y, x) per target, or masks to take centroids from",
            fix="add masks/, points.csv or points.json to the dataset",
        )
    return images
