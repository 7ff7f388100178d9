"""What one run of `istd annotate` knows: the images, their points, and who changed what when."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from ..data import centroid_points
from ..data._imagefile import read_gray_values
from ..data._names import check_name
from ..data._record import Record
from ..data.dataset import SPLITS, Dataset
from ..data.layouts._files import POINT_FILES, find_point_files
from ..data.layouts._folder_dataset import FolderDataset
from ..errors import ConfigError, DataError, IstdError, WriteError
from .point_file import Point, PointFile

MAX_POINTS = 10_000
"""Most points an image may have; more is a fault of the page, or somebody else's page."""

_CACHE_BYTES = 2**28


class StaleRevisionError(IstdError):
    """A change that was made to points that somebody else has changed since; nothing was written."""


class AnnotationSession:
    """The images of a dataset in one order, and their points in one file. All methods are thread-safe.

    Each image carries the revision at which it last changed: a number that a change has to name, so that
    two open pages, or a page and a text editor, never overwrite each other.

    Args:
        dataset: a folder of images, as `open_dataset` gives it.
        split: 'train', 'val', 'test', or 'all' of them.
        points: the point file; by default `points.csv` in the dataset's folder, or `points.json` if that is
            there.

    Raises:
        ConfigError: an unknown split, a packed or generated dataset, a point file of another format.
        DataError: an empty split, an image whose name cannot be written into a point file, a point file that
            is damaged, or one in the dataset's folder that is a link out of it.
    """

    def __init__(self, dataset: Dataset, split: str = "all", points: Path | None = None) -> None:
        if not isinstance(dataset, FolderDataset):
            raise ConfigError(
                "these images are not files of a folder, so there is nowhere to keep their points",
                where=dataset.root,
                expected="a dataset's folder",
                fix="annotate the folder that was packed, then run `istd pack` again",
            )
        if split not in (*SPLITS, "all"):
            raise ConfigError("there is no such split", found=split, expected="train, val, test or all")
        self.dataset = dataset
        self.split = split
        self.names = tuple(sorted(dataset.names if split == "all" else dataset.splits[split], key=_in_order))
        if not self.names:
            raise DataError(
                f"the split {split!r} is empty",
                where=dataset.root,
                fix="name images in its split file, or take --split all",
            )
        for name in self.names:
            if check_name(name, dataset.root) != name.strip():
                raise DataError(
                    "the name of an image begins or ends with a space",
                    where=dataset.root,
                    found=repr(name),
                    fix="rename the file: point and split files cannot say this name",
                )
        self.file = PointFile(points or _default_file(dataset.root), dataset.images)
        self._lock = threading.RLock()
        self._closed = False
        self._revision = 0
        self._changed_at = dict.fromkeys(self.names, 0)
        self._errors: dict[str, str] = {}
        self._shapes: dict[str, tuple[int, int]] = {}
        self._images = _Cache(_CACHE_BYTES)

    def state(self) -> dict[str, Any]:
        """All the page needs to know, ready for JSON: revision, folder, file, and every image."""
        with self._lock:
            self._catch_up()
            annotations = self.file.annotations
            return {
                "folder": str(self.dataset.root.resolve()),
                "file": str(self.file.path),
                "split": self.split,
                "revision": self._revision,
                "images": [self._entry(name, annotations.get(name)) for name in self.names],
            }

    def save(self, name: str, points: list[Point] | None, revision: int) -> dict[str, Any]:
        """Set the points of one image and write the file.

        Args:
            name: one of `names`.
            points: pixels (y, x); empty for no target, None for not annotated.
            revision: that of the image, as it was when the change was made.

        Returns:
            The new revision of the session, and the image's entry in `state`.

        Raises:
            DataError: an unknown or unreadable image, or a new point outside of it.
            StaleRevisionError: the image's points changed since `revision`.
            WriteError: the disk refused, or the session is closed.
        """
        self._known(name)
        shape = self._shape(name)
        with self._lock:
            if self._closed:
                raise WriteError("the annotation has been ended", fix="start `istd annotate` again")
            self._catch_up()
            if revision != self._changed_at[name]:
                raise StaleRevisionError(
                    "the points were changed elsewhere meanwhile",
                    where=name,
                    found=f"revision {revision}",
                    expected=f"revision {self._changed_at[name]}",
                    fix="look at them again and repeat the change",
                )
            known = set(self.file.annotations.get(name, ()))
            for y, x in points or ():
                if (y, x) not in known and not (0 <= y < shape[0] and 0 <= x < shape[1]):
                    raise DataError(
                        "the point lies outside the image",
                        where=name,
                        found=f"y = {y}, x = {x}",
                        expected=f"0 ≤ y < {shape[0]} and 0 ≤ x < {shape[1]}",
                    )
            self.file.set(name, points)
            self._revision += 1
            self._changed_at[name] = self._revision
            return {"revision": self._revision, "image": self._entry(name, self.file.annotations.get(name))}

    def values(self, name: str) -> np.ndarray:
        """The gray values of an image, uint8 or uint16 [H, W], as stored.

        Raises:
            DataError: unknown, or it cannot be read; the latter is remembered and shown in `state`.
        """
        self._known(name)
        found = self._images.get(name)
        if found is not None:
            return found
        try:
            values = read_gray_values(self.dataset.image_file(name))
        except DataError as error:
            with self._lock:
                self._errors[name] = str(error)
            raise
        self._images.put(name, values)
        with self._lock:
            self._errors.pop(name, None)
            self._shapes[name] = (values.shape[0], values.shape[1])
        return values

    def reference(self, name: str) -> tuple[np.ndarray | None, list[list[int]]]:
        """What the dataset itself says: the mask, bool [H, W] or None, and points (y, x).

        The points are the centroids of the mask's components; without a mask, the points that the dataset
        had when it was opened.

        Raises:
            DataError: unknown image, or one or its mask cannot be read.
        """
        self._known(name)
        record: Record = self.dataset.read(name)
        if record.mask is not None:
            return record.mask, centroid_points(record.mask).tolist()
        return None, record.points.tolist()

    def summary(self) -> dict[str, int]:
        """Counts: images, annotated, without_target, unreadable (as far as looked at), points."""
        with self._lock:
            annotations = self.file.annotations
            own = [annotations[name] for name in self.names if name in annotations]
            return {
                "images": len(self.names),
                "annotated": len(own),
                "without_target": sum(not points for points in own),
                "unreadable": len(self._errors),
                "points": sum(len(points) for points in own),
            }

    @property
    def read_by_training(self) -> bool:
        """Whether the dataset, opened by itself, takes its points from the file that is written here."""
        return self.file.path == _default_file(self.dataset.root).resolve()

    def close(self) -> None:
        """Wait for a change that is being written, and take no further ones."""
        with self._lock:
            self._closed = True

    def _entry(self, name: str, points: tuple[Point, ...] | None) -> dict[str, Any]:
        return {
            "name": name,
            "points": points,
            "revision": self._changed_at[name],
            "error": self._errors.get(name),
        }

    def _known(self, name: str) -> None:
        if name not in self._changed_at:
            raise DataError("there is no such image", where=name[:200], expected="a name of the chosen split")

    def _shape(self, name: str) -> tuple[int, int]:
        if name not in self._shapes:
            self.values(name)
        return self._shapes[name]

    def _catch_up(self) -> None:
        """Take over what somebody else wrote to the point file."""
        if not self.file.changed_outside():
            return
        before = self.file.annotations
        self.file.reload()
        after = self.file.annotations
        self._revision += 1
        for name in self.names:
            if before.get(name) != after.get(name):
                self._changed_at[name] = self._revision


class _Cache:
    """The images used last, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> np.ndarray | None:
        with self._lock:
            if name in self._held:
                self._held.move_to_end(name)
            return self._held.get(name)

    def put(self, name: str, values: np.ndarray) -> None:
        with self._lock:
            self._held[name] = values
            self._held.move_to_end(name)
            while len(self._held) > 1 and sum(one.nbytes for one in self._held.values()) > self._limit:
                self._held.popitem(last=False)


def _default_file(root: Path) -> Path:
    return next(iter(find_point_files(root)), root / POINT_FILES[0])


def _in_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key that puts frame10 after frame9."""
    parts = re.split(r"(\d+)", name)
    return [(int(one), "") if i % 2 else (0, one.casefold()) for i, one in enumerate(parts)], name
