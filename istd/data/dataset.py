"""What every dataset answers, whatever its files look like."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import DataError
from ._content import ContentHash
from ._names import is_plain_text
from ._record import DataWarning, Record
from .streamed import StoredPixels

SPLITS = ("train", "val", "test")


class Dataset(ABC):
    """Named images in three splits.

    A subclass passes its splits to `__init__`, which checks them, and implements `_read`.

    Attributes:
        root: the folder or file it was opened from.
        layout: the name of the layout.
        splits: 'train', 'val' and 'test' → names, in the order of the dataset; a split may be empty.
        unannotated: images to learn from that the dataset's point file does not name, so that they count as
            images without a target; see `Parts.unannotated`.

    Raises:
        DataError: a name occurs twice, in one split or in two, or no split has a name.
    """

    unannotated: frozenset[str] = frozenset()

    def __init__(self, root: Path, layout: str, splits: Mapping[str, Iterable[str]]) -> None:
        self.root = root
        self.layout = layout
        self.splits: Mapping[str, tuple[str, ...]] = {s: tuple(splits.get(s, ())) for s in SPLITS}
        self._split_of = _index_splits(self.splits, root)
        self._noted: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all splits: training, validation, test."""
        return tuple(self._split_of)

    def read(self, name: str) -> Record:
        """Read and check one image.

        What had to be mended is said once per name, as a `DataWarning`.

        Raises:
            DataError: an unknown name, or a file that cannot be used; the message names the file.
        """
        self._require([name])
        record = self._read(name)
        self._check(record)
        if record.note is not None and name not in self._noted:
            self._noted.add(name)
            warnings.warn(record.note, DataWarning, stacklevel=2)
        return record

    def content_key(self) -> str | None:
        """A hash that changes when what would be read changes; None if that cannot be told cheaply."""
        return None

    def content_hash(self) -> str:
        """SHA-256 (64 hexadecimal digits) of all images, masks and points, by name.

        It does not depend on the splits, nor on where or how the images are stored: a folder and its packed
        file have the same. Reads every image, unless it was packed with its hash.

        Raises:
            DataError: an image that cannot be used.
        """
        found = ContentHash()
        for name in self.names:
            found.add(self.read(name))
        return found.hexdigest()

    def stored_pixels(self, names: Sequence[str]) -> StoredPixels | None:
        """Where the pixels of images can be read in parts; None where they can only be read image by image.

        Raises:
            DataError: an unknown name.
        """
        self._require(names)
        return None

    @abstractmethod
    def _read(self, name: str) -> Record:
        """Read the image `name`, which is in a split. `read` checks the answer."""

    def split_hash(self) -> str:
        """SHA-256 (64 hexadecimal digits) of which names are in which split.

        Hashed are, as UTF-8 and each followed by a newline, for train, val and test in this order: the
        split's name, then its image names sorted by code point. So it depends neither on the order of the
        lines in a split file nor on where or how the images are stored, and two results with the same hash
        were trained, chosen and tested on images of the same names.
        """
        digest = hashlib.sha256()
        for split, names in self.splits.items():
            for line in (split, *sorted(names)):
                digest.update(line.encode("utf-8") + b"\n")
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._split_of)

    def __repr__(self) -> str:
        counts = ", ".join(f"{split}: {len(names)}" for split, names in self.splits.items())
        return f"{type(self).__name__}({str(self.root)!r}, layout={self.layout!r}, {counts})"

    def _require(self, names: Iterable[str]) -> None:
        """Refuse names that are in no split."""
        for name in names:
            if name not in self._split_of:
                raise DataError(f"there is no image named {name!r} in any split", where=self.root)

    def _check(self, record: Record) -> None:
        """Refuse points outside the image: the one fault that every layout with points can have."""
        height, width = record.image.shape
        for y, x in record.points.tolist():
            if not (0 <= y < height and 0 <= x < width):
                raise DataError(
                    f"a point of {record.name} lies outside the image",
                    where=self.root,
                    found=f"y = {y}, x = {x}",
                    expected=f"0 ≤ y < {height} and 0 ≤ x < {width}",
                    fix="points are rows (y, x), counted from 0; see whether y and x were exchanged",
                )


def _index_splits(splits: Mapping[str, tuple[str, ...]], root: Path) -> dict[str, str]:
    """Name → split, in order; refuses names that occur twice."""
    split_of: dict[str, str] = {}
    for split, names in splits.items():
        for name in names:
            if not is_plain_text(name):
                raise DataError(
                    f"an image of the split {split!r} has a name that cannot be written",
                    where=root,
                    found=ascii(name),
                    expected="text without control characters",
                    fix="rename the image",
                )
            if name in split_of:
                both = split_of[name]
                where = f"twice in the split {split!r}" if both == split else f"in {both!r} and in {split!r}"
                raise DataError(
                    f"the image {name} is listed {where}",
                    where=root,
                    expected="every image once: a test image seen in training makes the result worthless",
                    fix="remove it from one of the split files",
                )
            split_of[name] = split
    if not split_of:
        raise DataError(
            "no split has an image", where=root, expected="names in at least one of train, val and test"
        )
    return split_of
