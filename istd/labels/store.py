"""The label store: every version of every training image's label, and who trains, in one HDF5 file."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._files import atomic_path
from ..errors import LabelError
from . import _store_format as disk
from ._store_checks import check_names, check_pool, check_settings, check_sizes, check_unchanged
from .sparse import LabelMap, SparseLabel, to_sparse


@dataclass(frozen=True)
class Version:
    """One entry of a store's history.

    Attributes:
        number: 0 for the first labels, then 1, 2, …
        epoch: after which epoch it was made.
        changed: names of the images whose label differs from the version before.
        entered: names of the images that entered the training pool here.
        left: names of the images that left it here.
        pool_size: how many images train.
        note: what the program wrote about it.
    """

    number: int
    epoch: int
    changed: tuple[str, ...]
    entered: tuple[str, ...]
    left: tuple[str, ...]
    pool_size: int
    note: str


class LabelStore:
    """A versioned, resumable store of soft labels.

    Every commit adds to a copy of the file, flushes it to the disk and renames it over the original. HDF5
    cannot be appended to safely in place (a process that dies between two of its writes leaves a file nobody
    can open); a rename happens as a whole, so a kill at any moment leaves the last version readable. Copying
    costs little: labels are sparse, so the store of thousands of images stays small. In memory are the
    current labels (`SparseLabel`) and 5 bytes for each image and version, not the file, which is open only
    while it is read or written.

    Use `LabelStore.create` or `LabelStore.open`, not the constructor.
    """

    def __init__(self, path: Path, header: disk.Header) -> None:
        self._path = path
        self._header = header
        self._index = {name: index for index, name in enumerate(header.names)}
        self._current: dict[int, SparseLabel] | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        names: Sequence[str],
        labels: Iterable[LabelMap | SparseLabel],
        *,
        pool: npt.ArrayLike | None = None,
        epoch: int = 0,
        settings: Mapping[str, Any] | None = None,
        note: str = "",
        overwrite: bool = False,
    ) -> LabelStore:
        """Write a new store whose version 0 holds the first labels.

        Args:
            path: the file to write.
            names: unique image names.
            labels: float32 [H, W] within [0, 1] for each image, or its sparse form; they fix the images'
                sizes. Looked at one by one, so they need not all be in memory.
            pool: bool [N], which images train; all if None.
            epoch: after which epoch the labels were made.
            settings: how they were made (method, its settings, …); anything that JSON can hold.
            note: a remark for the history.
            overwrite: replace an existing file (atomically) instead of refusing.

        Raises:
            LabelError: the file exists, names repeat, or a label is unusable; WriteError: the disk failed.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise LabelError(
                "a label store exists here already", where=path, fix="resume it, or choose another folder"
            )
        described = check_settings(path, settings)
        members = check_pool(pool, len(names), np.ones(len(names), np.bool_))
        sparse = [to_sparse(label, _name(names, index)) for index, label in enumerate(labels)]
        if len(names) == 0 or len(names) != len(sparse) or len(set(names)) != len(names):
            raise LabelError(
                "the store needs one label for each of several unique names",
                where=path,
                found=f"{len(names)} names ({len(set(names))} different), {len(sparse)} labels",
            )
        first = disk.Entry(int(epoch), note, dict(enumerate(sparse)), members)
        with atomic_path(path) as partial:
            disk.write_new(partial, described, names, [label.size for label in sparse], first)
        return cls.open(path)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        names: Sequence[str] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> LabelStore:
        """Open an existing store.

        Args:
            path: the file.
            names: if given, the store must hold exactly these images in this order.
            sizes: if given, (height, width) that each of them must have.

        Raises:
            LabelError: no such file; damaged, cut short, foreign or of a newer format; of other images.
        """
        path = Path(path)
        header = disk.read_header(path)
        if names is not None:
            check_names(path, header.names, names)
        if sizes is not None:
            check_sizes(path, header, sizes)
        return cls(path, header)

    @property
    def path(self) -> Path:
        """The store's file."""
        return self._path

    @property
    def names(self) -> tuple[str, ...]:
        """Image names, in the order of `labels` and `pool`."""
        return self._header.names

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each image."""
        return self._header.sizes

    @property
    def settings(self) -> dict[str, Any]:
        """How the labels were made, as given to `create`."""
        return dict(self._header.settings)

    @property
    def latest(self) -> int:
        """Number of the last version."""
        return len(self._header.versions) - 1

    def commit(
        self,
        epoch: int,
        changes: Mapping[int, LabelMap | SparseLabel] | Mapping[str, LabelMap | SparseLabel],
        *,
        pool: npt.ArrayLike | None = None,
        note: str = "",
    ) -> int:
        """Add a version and return its number; when this returns, it is on the disk.

        Args:
            epoch: after which epoch it was made; not before the last version's.
            changes: image (name or position) → new label, float32 [H, W] or its sparse form. Labels that are
                the same bit for bit as before are not stored again.
            pool: bool [N], which images train from now on; as before if None.
            note: a remark for the history.

        Raises:
            LabelError: unknown image, wrong size or values, an earlier epoch, or the file was changed by
                another process; WriteError: the disk failed, and the store is as it was.
        """
        last = self._header.versions[-1]
        if epoch < last.epoch:
            raise LabelError(
                "labels cannot be committed before the last version",
                where=self._path,
                found=f"epoch {epoch}",
                expected=f"epoch {last.epoch} or later",
                fix="truncate the store to the version you resume from",
            )
        current = self._sparse_current()
        fresh: dict[int, SparseLabel] = {}
        for key, label in changes.items():
            index = self._position(key)
            size = label.size if isinstance(label, SparseLabel) else tuple(np.shape(label))
            if size != self.sizes[index]:
                raise LabelError(
                    f"the new label of image {self.names[index]!r} has the wrong size",
                    where=self._path,
                    found=size,
                    expected=self.sizes[index],
                )
            sparse = to_sparse(label, self.names[index])
            if not sparse.equals(current[index]):
                fresh[index] = sparse
        members = check_pool(pool, len(self.names), last.pool)
        version = self.latest + 1
        check_unchanged(self._path, self._header)
        with atomic_path(self._path) as partial:
            shutil.copyfile(self._path, partial)
            disk.append_version(partial, version, disk.Entry(int(epoch), note, fresh, members))
        current.update(fresh)
        entry = disk.StoredVersion(int(epoch), note, np.asarray(sorted(fresh), np.int32), members)
        self._header = disk.Header(
            self._header.settings, self._header.names, self._header.sizes, (*self._header.versions, entry)
        )
        return version

    def labels(self, version: int | None = None, only: Sequence[int | str] | None = None) -> list[LabelMap]:
        """Labels, float32 [H, W] each, as of a version (the last if None).

        Args:
            version: which.
            only: images (names or positions) in the wanted order; all, in the order of `names`, if None.
        """
        return [label.dense() for label in self.sparse(version, only)]

    def sparse(
        self, version: int | None = None, only: Sequence[int | str] | None = None
    ) -> list[SparseLabel]:
        """As `labels`, in the sparse form: of many images these fit in memory."""
        indices = range(len(self.names)) if only is None else [self._position(image) for image in only]
        if version is None and only is None:
            found = self._sparse_current()
        else:
            found = self._read(self._check_version(version), indices)
        return [found[index] for index in indices]

    def label(self, image: int | str, version: int | None = None) -> LabelMap:
        """The label of one image (name or position), float32 [H, W], as of a version (the last if None)."""
        index = self._position(image)
        return self._read(self._check_version(version), [index])[index].dense()

    def pool(self, version: int | None = None) -> npt.NDArray[np.bool_]:
        """bool [N]: True where the image trains, False where it waits, as of a version (the last if None)."""
        return self._header.versions[self._check_version(version)].pool.copy()

    def history(self) -> tuple[Version, ...]:
        """Every version: when it was made and what it changed."""
        entries = []
        before = np.zeros(len(self.names), np.bool_)
        for number, stored in enumerate(self._header.versions):
            entries.append(
                Version(
                    number=number,
                    epoch=stored.epoch,
                    changed=self._named(stored.image),
                    entered=self._named(np.flatnonzero(stored.pool & ~before)),
                    left=self._named(np.flatnonzero(before & ~stored.pool)),
                    pool_size=int(stored.pool.sum()),
                    note=stored.note,
                )
            )
            before = stored.pool
        return tuple(entries)

    def truncate(self, version: int) -> None:
        """Drop every version after `version`, as a resumed run does with those its checkpoint does not know.

        Raises:
            LabelError: no such version, or another process changed the file; WriteError: the disk failed.
        """
        version = self._check_version(version)
        if version == self.latest:
            return
        check_unchanged(self._path, self._header)
        with atomic_path(self._path) as partial:
            disk.copy_versions(self._path, partial, self._header, version + 1)
        self._header = disk.read_header(self._path)
        self._current = None

    def _read(self, version: int, images: Sequence[int]) -> dict[int, SparseLabel]:
        """Sparse labels of some images: each is read where it last changed."""
        latest = np.zeros(len(self.names), np.int64)
        for number in range(version + 1):
            latest[self._header.versions[number].image] = number
        wanted: dict[int, list[int]] = {}
        for index in images:
            wanted.setdefault(int(latest[index]), []).append(index)
        return disk.read_pixels(self._path, wanted, self.sizes)

    def _sparse_current(self) -> dict[int, SparseLabel]:
        if self._current is None:
            self._current = self._read(self.latest, range(len(self.names)))
        return self._current

    def _check_version(self, version: int | None) -> int:
        if version is None:
            return self.latest
        if not 0 <= version <= self.latest:
            raise LabelError(
                "the label store has no such version",
                where=self._path,
                found=version,
                expected=f"0 to {self.latest}",
            )
        return int(version)

    def _position(self, image: int | str) -> int:
        index = self._index.get(image, -1) if isinstance(image, str) else int(image)
        if not 0 <= index < len(self.names):
            raise LabelError("the label store does not hold this image", where=self._path, found=image)
        return index

    def _named(self, indices: npt.NDArray[Any]) -> tuple[str, ...]:
        return tuple(self.names[index] for index in indices.tolist())


def _name(names: Sequence[str], index: int) -> str:
    """For messages; there may be more labels than names."""
    return names[index] if index < len(names) else str(index)
