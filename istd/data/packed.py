"""A whole dataset in one HDF5 file, read without executing anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from .._hdf5 import CHUNK_CACHE
from ..errors import DataError
from ..ragged import size_tuple
from ._imagefile import MAX_PIXELS
from ._record import Record
from .dataset import SPLITS, Dataset
from .streamed import StoredPixels, StreamedImages

FORMAT = "istd-packed"
VERSION = 2
"""1: only images, masks and points have checksums, not what is noted about them; still read."""
FLAT = ("images", "masks", "points")
MAX_INDEX = 2**28
COLUMNS = ("heights", "widths", "has_mask", "point_counts")


class PackedDataset(Dataset):
    """A file written by `pack`.

    The file holds the attributes `format`, `version`, `layout` (of the source), `split_hash` and
    `content_hash` (files of earlier versions lack it), and
    - images: uint8 [total pixels], all images one after the other, row by row
    - masks: uint8 [total pixels], 1 on targets; 0 throughout for an image without a mask
    - points: int64 [total points, 2], rows (y, x)
    - heights, widths, point_counts: int64 [N]; has_mask: bool [N]
    - index: UTF-8 JSON as uint8, {"names": [...], "splits": {...}, "notes": {...}, "unannotated": [...]}

    Attributes:
        source_layout: the layout of the dataset that was packed.

    Args:
        path: the file.

    Raises:
        DataError: not such a file, damaged, truncated, or written by a newer version.
    """

    source_layout: str

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        try:
            # Kept open: opening takes longer than reading an image.
            self._file = h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE)
        except OSError as error:
            raise _damaged(path, error) from error
        try:
            self._read_index(path, self._file)
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error
        self._position = {name: i for i, name in enumerate(self._names)}
        super().__init__(path, "packed", self._read_splits)
        if sorted(self.names) != sorted(self._names):
            raise _damaged(path, "splits and names disagree")
        if self.split_hash() != self._stored_hash:
            raise _damaged(path, "the split hash does not match the splits")

    def _read_index(self, path: Path, file: h5py.File) -> None:
        if _text(file.attrs.get("format")) != FORMAT:
            raise DataError(
                "this is an HDF5 file, but not a packed dataset",
                where=path,
                found=", ".join(list(file)[:8]) or "an empty file",
                fix="give the dataset's folder, or a file written by istd.data.pack",
            )
        version = file.attrs.get("version")
        if not isinstance(version, np.integer) or version < 1:
            raise _damaged(path, f"version {version!r}")
        if version > VERSION:
            raise DataError(
                "the file was packed by a newer version of istd",
                where=path,
                found=f"format version {version}",
                expected=f"at most {VERSION}",
                fix="update istd, or pack the dataset again",
            )
        try:
            index = json.loads(_plain(file, "index", MAX_INDEX)[()].tobytes().decode("utf-8"))
            self._names = tuple(str(name) for name in index["names"])
            self._read_splits = {split: tuple(map(str, index["splits"][split])) for split in SPLITS}
            self._notes = {str(name): str(note) for name, note in index["notes"].items()}
            self.unannotated = frozenset(map(str, index.get("unannotated", ())))
            self.source_layout = str(_text(file.attrs["layout"]))
            self._stored_hash = _text(file.attrs["split_hash"])
            self._content_hash = _text(file.attrs.get("content_hash"))
            columns = {column: np.asarray(_plain(file, column, len(self._names))[()]) for column in COLUMNS}
            images, masks, points = (_plain(file, flat) for flat in FLAT)
            shapes = images.shape, masks.shape, points.shape
            dtypes = images.dtype, masks.dtype, points.dtype
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise _damaged(path, error) from error
        if any(columns[name].dtype.kind != kind for name, kind in zip(COLUMNS, "iibi", strict=True)):
            raise _damaged(path, f"sizes that are no whole numbers ({_kinds(columns)})")
        heights, widths = columns["heights"].astype(np.int64), columns["widths"].astype(np.int64)
        counts = columns["point_counts"].astype(np.int64)
        pixels = heights * widths
        if (
            any(column.shape != (len(self._names),) for column in columns.values())
            or min(heights.min(initial=1), widths.min(initial=1), counts.min(initial=0) + 1) < 1
            or pixels.max(initial=0) > MAX_PIXELS
            or shapes != ((pixels.sum(),), (pixels.sum(),), (counts.sum(), 2))
            or dtypes != (np.uint8, np.uint8, np.int64)
        ):
            raise _damaged(path, "sizes that do not fit together")
        self._heights, self._widths, self._has_mask = heights, widths, columns["has_mask"].astype(bool)
        self._pixel_ends, self._point_ends = np.cumsum(pixels), np.cumsum(counts)

    def content_hash(self) -> str:
        """See `Dataset.content_hash`; noted when the file was written."""
        return super().content_hash() if self._content_hash is None else self._content_hash

    def __reduce__(self) -> tuple[type[PackedDataset], tuple[Path]]:
        return type(self), (self.root,)

    def stored_pixels(self, names: Sequence[str]) -> StoredPixels:
        """See `Dataset.stored_pixels`."""
        self._require(names)
        where = np.array([self._position[name] for name in names], np.int64)
        heights, widths = self._heights[where], self._widths[where]
        starts = self._pixel_ends[where] - heights * widths
        sizes = size_tuple(heights.tolist(), widths.tolist())
        images, masks = (
            StreamedImages(partial(self._pixels, flat), starts, sizes) for flat in ("images", "masks")
        )
        return StoredPixels(images, masks if self._has_mask[where].all() else None)

    def _pixels(self, flat: str, first: int, last: int) -> np.ndarray:
        """Some pixels of all, uint8; of masks 0 or 1."""
        try:
            pixels = _plain(self._file, flat)[first:last]
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise _damaged(self.root, error) from error
        return pixels if flat == "images" else (pixels != 0).astype(np.uint8)

    def _read(self, name: str) -> Record:
        i = self._position[name]
        height, width = int(self._heights[i]), int(self._widths[i])
        end, last = int(self._pixel_ends[i]), int(self._point_ends[i])
        pixels = slice(end - height * width, end)
        first = int(self._point_ends[i - 1]) if i else 0
        try:
            images, masks, rows = (_plain(self._file, flat) for flat in FLAT)
            image = images[pixels].reshape(height, width)
            mask = masks[pixels].reshape(height, width) != 0 if self._has_mask[i] else None
            points = rows[first:last]
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise _damaged(self.root, f"{name}: {error}") from error
        return Record(name, image, mask, points, self._notes.get(name))


def _plain(file: h5py.File, name: str, at_most: int | None = None) -> h5py.Dataset:
    """The dataset `name`, if its bytes are in this very file: HDF5 links may lead to any other."""
    linked = not isinstance(file.get(name, getlink=True), h5py.HardLink)
    data = None if linked else file[name]
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
        raise ValueError(f"{name} is missing or lies outside the file")
    if at_most is not None and data.size > at_most:
        raise ValueError(f"{name} has {data.size} entries, expected at most {at_most}")
    return data


def _kinds(columns: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{name}: {column.dtype}" for name, column in columns.items())


def _text(value: object) -> str | None:
    """An HDF5 string attribute; None if it is anything else."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def _damaged(path: Path, found: object) -> DataError:
    return DataError(
        "the packed dataset is damaged or is no HDF5 file",
        where=path,
        found=found,
        expected="a whole file written by istd.data.pack",
        fix="pack the dataset again",
    )
