"""A dataset of files in folders, whatever the folders are called."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ...errors import DataError
from .._fit import fit_mask
from .._imagefile import read_gray
from .._record import Record
from ..dataset import Dataset
from ..points import centroid_points
from ._files import inside
from ._parts import Parts
from ._registry import Layout, register_layout
from ._sources import given_points, show_sizes, stored_mask


class FolderDataset(Dataset):
    """Images, masks and points in files, found by the image's name.

    The points of an image are those of the dataset's point file; without one, the dots of its point image;
    without that too, the centroids of its mask's components. An image with points needs no mask.

    Args:
        root: the dataset's folder.
        layout: the layout's name.
        parts: where everything is.
        mask_threshold: see `read_mask`.

    Raises:
        DataError: a split names an image that is not there; a name is in two splits.
    """

    def __init__(self, root: Path, layout: str, parts: Parts, mask_threshold: float | None = None) -> None:
        super().__init__(root, layout, parts.splits)
        for split, names in self.splits.items():
            missing = [name for name in names if name not in parts.images]
            if missing:
                raise DataError(
                    f"the split {split!r} names images that are not there",
                    where=parts.split_files.get(split, root),
                    found=f"{len(missing)} of {len(names)}: {', '.join(missing[:5])}"
                    + (", …" if len(missing) > 5 else ""),
                    expected=f"an image file for each name (there are {len(parts.images)} images)",
                    fix="complete the image folder, or remove these names from the split file",
                )
        self.unannotated = frozenset(parts.unannotated())
        self._parts = parts
        self._mask_threshold = mask_threshold

    @property
    def images(self) -> Mapping[str, Path]:
        """Name → file of every image that is there, whether a split names it or not."""
        return self._parts.images

    def image_file(self, name: str) -> Path:
        """The file of the image `name`.

        Raises:
            DataError: no image of that name, or a link that leads out of the dataset's folder.
        """
        if name not in self._parts.images:
            raise DataError(f"there is no image named {name!r}", where=self.root)
        return inside(self.root, self._parts.images[name])

    def content_key(self) -> str:
        """A hash of the splits, the points, and the names, sizes and times of change of the files in use."""
        digest = hashlib.sha256(f"{self.layout}\n{self._mask_threshold}\n{dict(self.splits)}\n".encode())
        parts = self._parts
        for name in self.names:
            for files in (parts.images, parts.masks, parts.point_images):
                path = None if files is None else files.get(name)
                status = None if path is None else path.stat()
                digest.update(f"{path}\0{status and (status.st_size, status.st_mtime_ns)}\n".encode())
            if parts.points is not None:
                points = parts.points.get(name)
                digest.update(f"{points if points is None else points.tolist()}\n".encode())
        return digest.hexdigest()

    def _read(self, name: str) -> Record:
        if not self._parts.is_labelled(name):
            raise DataError(
                f"the image {name} has neither points nor a mask",
                where=self.image_file(name),
                fix="mark its targets with `istd annotate`, add its mask or point image (all black if there "
                "is no target), or take its name out of the split",
            )
        image = read_gray(self.image_file(name))
        size = (image.shape[0], image.shape[1])
        notes: list[str] = []
        mask = self._read_mask(name, size, notes)
        given = given_points(self.root, self._parts, name, size)
        if given is not None:
            points, note = given
            notes += [] if note is None else [note]
        else:
            points = np.empty((0, 2), np.int64) if mask is None else centroid_points(mask)
        return Record(name, image, mask, points, "; ".join(notes) or None)

    def _read_mask(self, name: str, size: tuple[int, int], notes: list[str]) -> np.ndarray | None:
        stored = stored_mask(self.root, self._parts, name, self._mask_threshold)
        if stored is None:
            return None
        mask, path = stored
        if mask.shape != size:
            found = show_sizes("mask", mask.shape, size)
            notes.append(f"{path}: the mask was resized to its image ({found})")
            mask = fit_mask(mask, size, self._parts.images[name], path)
        return mask


def register_folder_layout(
    name: str,
    tree: str,
    detect: Callable[[Path], bool],
    parts: Callable[[Path], Parts],
    *,
    fallback: bool = False,
) -> Layout:
    """Register a layout whose datasets are files in folders; see `Layout` for the arguments."""

    def opened(root: Path, mask_threshold: float | None) -> Dataset:
        return FolderDataset(root, name, parts(root), mask_threshold)

    return register_layout(Layout(name, tree, detect, opened, fallback, parts))
