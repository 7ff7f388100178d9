"""A dataset of files in folders, whatever the folders are called."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ...errors import DataError
from .._fit import fit_mask, fit_points
from .._imagefile import read_gray, read_mask
from .._record import Record
from ..dataset import Dataset
from ..pointfiles import read_point_image
from ..points import centroid_points
from ._files import inside
from ._parts import Parts
from ._registry import Layout, register_layout


class FolderDataset(Dataset):
    """Images, masks and points in files, found by the image's name.

    The points of an image are those of the dataset's point file; without one, the dots of its point image;
    without that too, the centroids of its mask's components.

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
                digest.update(np.asarray(parts.points.get(name, ())).tobytes())
        return digest.hexdigest()

    def _read(self, name: str) -> Record:
        image = read_gray(self.image_file(name))
        size = (image.shape[0], image.shape[1])
        notes: list[str] = []
        mask = self._read_mask(name, size, notes)
        points = self._read_points(name, size, mask, notes)
        return Record(name, image, mask, points, "; ".join(notes) or None)

    def _read_mask(self, name: str, size: tuple[int, int], notes: list[str]) -> np.ndarray | None:
        if self._parts.masks is None:
            return None
        path = self._parts.masks.get(name)
        if path is None:
            if self._parts.masks_optional:
                return None
            raise DataError(f"the image {name} has no mask", where=self.image_file(name), fix="add its mask")
        mask = read_mask(inside(self.root, path), self._mask_threshold)
        if mask.shape != size:
            notes.append(f"{path}: the mask was resized to its image ({_sizes('mask', mask.shape, size)})")
            mask = fit_mask(mask, size, self._parts.images[name], path)
        return mask

    def _read_points(
        self, name: str, size: tuple[int, int], mask: np.ndarray | None, notes: list[str]
    ) -> np.ndarray:
        none = np.empty((0, 2), np.int64)
        if self._parts.points is not None:
            return self._parts.points.get(name, none)
        path = None if self._parts.point_images is None else self._parts.point_images.get(name)
        if path is not None:
            points, its_size = read_point_image(inside(self.root, path))
            if its_size != size:
                found = _sizes("points", its_size, size)
                notes.append(f"{path}: the points were scaled to the image ({found})")
                points = fit_points(points, its_size, size, self._parts.images[name], path)
            return points
        if mask is not None:
            return centroid_points(mask)
        if self._parts.point_images is not None or self._parts.masks_optional:
            raise DataError(
                f"the image {name} has neither points nor a mask",
                where=self.image_file(name),
                fix="add its point image or its mask, or take its name out of the split",
            )
        return none


def _sizes(what: str, size: tuple[int, ...], image: tuple[int, int]) -> str:
    return f"{what} {size[0]} × {size[1]}, image {image[0]} × {image[1]}"


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
