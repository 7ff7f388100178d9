"""A split, ready to be cropped on the training device: in memory, or in its file where it does not fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import DataError
from ..ragged import ImageSource, RaggedImages
from ._memory import pixel_budget
from ._record import DataWarning, Record
from .dataset import Dataset
from .streamed import StoredPixels


@dataclass
class ImageSet:
    """Some images of a dataset.

    Attributes:
        names: their names, N of them.
        images: uint8 pixels, in memory or in their file.
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

    @property
    def nbytes(self) -> int:
        """What images and masks take in memory, in bytes."""
        return self.images.nbytes + (0 if self.masks is None else self.masks.nbytes)

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with its pixels on `device`; points stay on the host."""
        masks = None if self.masks is None else self.masks.to(device)
        return ImageSet(self.names, self.images.to(device), masks, self.points)


def load_names(
    dataset: Dataset,
    names: Sequence[str],
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    memory_gb: float | None = None,
) -> ImageSet:
    """Read images by name, in the given order.

    Every image is read and checked once. Pixels then stay in memory; those of a packed file that would take
    more than `memory_gb` stay in the file, and are read again whenever they are looked at.

    How many of them the dataset's point file does not name, which makes them images without a target, is said
    in a `DataWarning`.

    Args:
        dataset: where from.
        names: which; at least one.
        device: where the pixels go.
        progress: called with (images read, images in all) after each.
        memory_gb: GiB that pixels may take; half of what is free on the device if None.

    Raises:
        DataError: no name, an unknown one, or an image that cannot be used.
    """
    if not names:
        raise DataError("there is no image to load", where=dataset.root, expected="at least one name")
    stored = dataset.stored_pixels(names)
    pixels = _Pixels(stored, torch.device(device), memory_gb)
    points, unannotated = [], []
    for number, name in enumerate(names):
        record = dataset.read(name)
        pixels.add(number, record)
        points.append(record.points)
        # Of an image with an empty mask it is known that there is no target.
        if name in dataset.unannotated and (record.mask is None or record.mask.any()):
            unannotated.append(name)
        if progress is not None:
            progress(number + 1, len(names))
    _warn_unannotated(unannotated, len(names))
    return ImageSet(tuple(names), *pixels.finish(), tuple(points))


class _Pixels:
    """Keeps the pixels of records: nothing if they stay in their file.

    Args:
        stored: where they lie, if that is known; their sizes are then, and nothing is held twice.
        device: where they go.
        memory_gb: see `load_names`.
    """

    def __init__(self, stored: StoredPixels | None, device: torch.device, memory_gb: float | None) -> None:
        self._device = device
        self._records: list[Record] | None = [] if stored is None else None
        self._streamed: StoredPixels | None = None
        if stored is not None and stored.num_bytes > pixel_budget(memory_gb, device):
            self._streamed = stored.to(device)
        elif stored is not None:
            self._images, self._masks = stored.room(device)

    def add(self, number: int, record: Record) -> None:
        """Keep the next record."""
        if self._records is not None:
            self._records.append(record)
        elif self._streamed is None:
            self._images.set_image(number, record.image)
            if self._masks is not None and record.mask is not None:
                self._masks.set_image(number, record.mask)

    def finish(self) -> tuple[ImageSource, ImageSource | None]:
        """Images and masks of all records."""
        if self._streamed is not None:
            return self._streamed.images, self._streamed.masks
        if self._records is None:
            return self._images, self._masks
        masks = [record.mask for record in self._records if record.mask is not None]
        images = RaggedImages.from_arrays([record.image for record in self._records], device=self._device)
        if len(masks) < len(images):
            return images, None
        return images, RaggedImages.from_arrays(masks, dtype=torch.uint8, device=self._device)


def _warn_unannotated(left: Sequence[str], count: int) -> None:
    if left:
        shown = ", ".join(left[:5]) + (", …" if len(left) > 5 else "")
        warnings.warn(
            f"{len(left)} of {count} images are not in the point file, so they count as images "
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
    memory_gb: float | None = None,
) -> ImageSet:
    """Read a whole split, or several one after the other.

    Args:
        dataset: where from.
        split: 'train', 'val' or 'test', or several, such as ('train', 'val').
        device: where the pixels go.
        require_points: refuse a set without a single point; if None, where 'train' is among the splits.
        progress: called with (images read, images in all) after each.
        memory_gb: GiB that pixels may take, see `load_names`; half of what is free on the device if None.

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
    images = load_names(dataset, names, device, progress, memory_gb)
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
