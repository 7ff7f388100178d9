"""What all folder layouts share: safe paths, split files, and images with masks beside them."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ...errors import DataError
from .._fit import fit_mask
from .._imagefile import IMAGE_SUFFIXES, read_gray, read_mask
from .._record import Record
from ..dataset import Dataset
from ..points import centroid_points


def check_name(name: str, source: Path) -> str:
    """`name`, if it can be the name of a file in a folder, else `DataError`: `source` is not trusted."""
    harmless = not any(unicodedata.category(character) == "Cc" for character in name)
    if not harmless or name in ("", ".", "..") or "/" in name or "\\" in name or ":" in name:
        raise DataError(
            f"{name!r} is not the name of an image",
            where=source,
            expected="plain names, one a line, without folders or drive letters",
            fix="leave the folder out; images are looked up in the dataset's image folder only",
        )
    return name


def inside(root: Path, path: Path) -> Path:
    """`path`, if it stays in `root` after following links, else `DataError`."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(
            "the file is a link that leads out of the dataset's folder",
            where=path,
            found=f"→ {path.resolve()}",
            expected=f"a file inside {root.resolve()}",
            fix="copy the file into the dataset, or open the folder it is really in",
        )
    return path


def strip_suffix(name: str) -> str:
    """`name` without the suffix of an image file, if it has one; other dots belong to the name."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else name


def read_split(path: Path, root: Path) -> tuple[str, ...]:
    """The names in a split file: UTF-8, one a line, blank lines skipped, image suffixes taken off.

    Raises:
        DataError: a file that is missing or not text, or an entry that is not a plain name.
    """
    try:
        text = inside(root, path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "the split file cannot be read", where=path, found=error, expected="UTF-8 text, one name a line"
        ) from error
    entries = (line.strip() for line in text.splitlines())
    return tuple(check_name(strip_suffix(entry), path) for entry in entries if entry)


def list_images(folder: Path) -> dict[str, Path]:
    """Name → file for every image file in `folder`, sorted by name.

    Raises:
        DataError: the folder cannot be listed, or two files differ only in their suffix.
    """
    found: dict[str, Path] = {}
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise DataError("the image folder cannot be listed", where=folder, found=error) from error
    for path in files:
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem in found:
            raise DataError(
                f"two images are named {path.stem}",
                where=folder,
                found=f"{found[path.stem].name}, {path.name}",
                fix="keep one of them",
            )
        found[path.stem] = path
    return found


class FolderDataset(Dataset):
    """Images in one folder, masks in another, both found by name.

    Args:
        root: the dataset's folder.
        layout: the layout's name.
        splits: split → names.
        split_files: split → the file it was read from, named where an entry has no image.
        images: name → image file.
        masks: name → mask file; or None if the dataset has no masks. A missing mask is an error when read.
        points: name → int64 [N, 2]; or None for the centroids of the mask's components.
        mask_threshold: see `read_mask`.

    Raises:
        DataError: a split names an image that is not there; a name is in two splits.
    """

    def __init__(
        self,
        root: Path,
        layout: str,
        splits: Mapping[str, Iterable[str]],
        split_files: Mapping[str, Path],
        images: Mapping[str, Path],
        masks: Mapping[str, Path] | None,
        points: Mapping[str, np.ndarray] | None = None,
        mask_threshold: float | None = None,
    ) -> None:
        super().__init__(root, layout, splits)
        for split, names in self.splits.items():
            missing = [name for name in names if name not in images]
            if missing:
                raise DataError(
                    f"the split {split!r} names images that are not there",
                    where=split_files.get(split, root),
                    found=f"{len(missing)} of {len(names)}: {', '.join(missing[:5])}"
                    + (", …" if len(missing) > 5 else ""),
                    expected=f"an image file for each name (there are {len(images)} images)",
                    fix="complete the image folder, or remove these names from the split file",
                )
        self._images = images
        self._masks = masks
        self._points = points
        self._mask_threshold = mask_threshold

    def image_file(self, name: str) -> Path:
        """The file of the image `name`.

        Raises:
            DataError: no image of that name, or a link that leads out of the dataset's folder.
        """
        if name not in self._images:
            raise DataError(f"there is no image named {name!r}", where=self.root)
        return inside(self.root, self._images[name])

    def content_key(self) -> str:
        """A hash of the splits, the points, and the names, sizes and times of change of the files in use."""
        digest = hashlib.sha256(f"{self.layout}\n{self._mask_threshold}\n{dict(self.splits)}\n".encode())
        for name in self.names:
            for path in (self._images[name], None if self._masks is None else self._masks.get(name)):
                status = None if path is None else path.stat()
                digest.update(f"{path}\0{status and (status.st_size, status.st_mtime_ns)}\n".encode())
            if self._points is not None:
                digest.update(np.asarray(self._points.get(name, ())).tobytes())
        return digest.hexdigest()

    def _read(self, name: str) -> Record:
        image_path = self.image_file(name)
        image = read_gray(image_path)
        mask, note = None, None
        if self._masks is not None:
            mask_path = self._masks.get(name)
            if mask_path is None:
                raise DataError(f"the image {name} has no mask", where=image_path, fix="add its mask")
            mask = read_mask(inside(self.root, mask_path), self._mask_threshold)
            if mask.shape != image.shape:
                found = f"mask {mask.shape[0]} × {mask.shape[1]}, image {image.shape[0]} × {image.shape[1]}"
                mask = fit_mask(mask, (image.shape[0], image.shape[1]), image_path, mask_path)
                note = f"{mask_path}: the mask was resized to its image ({found})"
        if self._points is not None:
            points = self._points.get(name, np.empty((0, 2), np.int64))
        elif mask is not None:
            points = centroid_points(mask)
        else:
            points = np.empty((0, 2), np.int64)
        return Record(name, image, mask, points, note)
