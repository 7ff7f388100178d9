"""The label store on disk: HDF5 groups, their checks, and the sparse form of a label.

Layout (format 1)::

    /                    attributes format, format_version
    /settings            JSON text [1]: how the labels were made
    /images/name         UTF-8 text [N];  /images/size  int32 [N, 2], (height, width)
    /versions/000000     attributes epoch, note
        image  int32 [C]      which images changed, ascending
        start  int64 [C + 1]  where each of them begins in pixel and value
        pixel  int32 [P]      flat position y·W + x of every nonzero pixel, ascending in each image
        value  float32 [P]    its label
        pool   uint8 [N]      1: the image trains, 0: it waits

A version holds the whole label of each image that changed, so reading one never adds up differences.
Data sets carry checksums (Fletcher-32) and object headers theirs (HDF5 1.10 format): damage is found.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import LabelError
from .sparse import SparseLabel

FORMAT = "istd label store"
FORMAT_VERSION = 1
_CHUNK = 1 << 15
_FILE_NUMBER = itertools.count()  # HDF5 takes two open files in memory of one name for the same file
_MAX_TEXTS = 2**24
_MAX_AREA = 2**26  # pixels of the largest image that is read
_REBUILD = "restore it from a copy, or delete it and start the labels anew"


@dataclass(frozen=True)
class StoredVersion:
    """What is known of a version without reading its pixels."""

    epoch: int
    note: str
    image: npt.NDArray[np.int32]
    pool: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Header:
    """Everything in a store but the pixels."""

    settings: dict[str, Any]
    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    versions: tuple[StoredVersion, ...]


@contextlib.contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Open a store for reading; whatever HDF5 finds wrong with the file becomes a `LabelError`."""
    if not path.is_file():
        raise LabelError("there is no label store here", where=path, fix="train first, or check the path")
    try:
        # A store is only ever replaced whole, so readers need no lock (and some network disks have none).
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        raise LabelError(
            "the label store is damaged, cut short, or no label store",
            where=path,
            found=error,
            expected=f"{FORMAT}, format {FORMAT_VERSION}",
            fix=_REBUILD,
        ) from error


def read_header(path: Path) -> Header:
    """Read and check everything but the pixels."""
    with reading(path) as file:
        kind, number = _text_of(file.attrs.get("format")), file.attrs.get("format_version")
        if kind != FORMAT:
            raise LabelError(
                "this file is not a label store", where=path, found=f"format {kind!r}", expected=FORMAT
            )
        if number != FORMAT_VERSION:
            raise LabelError(
                "the label store has another format, written by a newer program",
                where=path,
                found=f"format {number}",
                expected=f"format {FORMAT_VERSION}",
                fix="update this program",
            )
        settings = json.loads(_get_text(_stored(file, "settings", "S"))[0])
        names = _get_text(_stored(file, "images/name", "S"))
        numbers = _stored(file, "images/size", "i", 2 * len(names))[()]
        sizes = tuple((int(height), int(width)) for height, width in numbers)
        groups = file["versions"]
        _require(isinstance(groups, h5py.Group), path, "no group of versions")
        wanted = [version_name(index) for index in range(len(groups))]
        _require(
            len(names) == len(sizes) and wanted and sorted(groups) == wanted,
            path,
            "images or versions missing",
        )
        _require(isinstance(settings, dict), path, "settings that are no object")
        _require(len(set(names)) == len(names), path, "two images of one name")
        _require(
            all(min(size) > 0 and size[0] * size[1] <= _MAX_AREA for size in sizes),
            path,
            f"sizes outside of 1 to {_MAX_AREA} pixels",
        )
        versions = tuple(_read_version(groups[name], len(names), path) for name in wanted)
    return Header(settings, names, sizes, versions)


def _read_version(group: h5py.Group, count: int, path: Path) -> StoredVersion:
    image, pool = _stored(group, "image", "i", count)[()], _stored(group, "pool", "u", count)[()]
    good = pool.shape == (count,) and image.ndim == 1 and bool((np.diff(image) > 0).all())
    good = good and (image.size == 0 or (image[0] >= 0 and image[-1] < count))
    _require(good, path, f"version {group.name} names images that are not there")
    note = str(_text_of(group.attrs["note"]))
    return StoredVersion(int(group.attrs["epoch"]), note, image, pool.astype(np.bool_))


def read_pixels(
    path: Path, wanted: Mapping[int, Sequence[int]], sizes: Sequence[tuple[int, int]]
) -> dict[int, Sparse]:
    """The sparse labels of some images.

    Args:
        path: the store.
        wanted: version → images to take from it; each must have changed there.
        sizes: (height, width) of every image.
    """
    found: dict[int, Sparse] = {}
    with reading(path) as file:
        for version, images in wanted.items():
            group = file["versions"][version_name(version)]
            image = _stored(group, "image", "i", len(sizes))[()]
            start = _stored(group, "start", "i", len(image) + 1)[()]
            most = sum(sizes[index][0] * sizes[index][1] for index in image.tolist())
            pixel, value = _stored(group, "pixel", "i", most)[()], _stored(group, "value", "f", most)[()]
            good = start.shape == (len(image) + 1,) and pixel.shape == value.shape == (int(start[-1]),)
            _require(
                good and start[0] == 0 and (np.diff(start) >= 0).all(),
                path,
                f"version {version} is inconsistent",
            )
            where = np.searchsorted(image, images)
            for index, row in zip(images, where.tolist(), strict=True):
                part = slice(int(start[row]), int(start[row + 1]))
                label = Sparse(pixel[part], value[part])
                area = sizes[index][0] * sizes[index][1]
                inside = label.pixel.size == 0 or (label.pixel[0] >= 0 and label.pixel[-1] < area)
                inside = inside and bool((np.diff(label.pixel) > 0).all())
                unit = bool(((label.value >= 0) & (label.value <= 1)).all())
                _require(
                    int(image[row]) == index and inside and unit, path, f"image {index} in version {version}"
                )
                found[index] = label
    return found


def new_image(settings: Mapping[str, Any], names: Sequence[str], sizes: npt.NDArray[np.int32]) -> bytes:
    """The bytes of a store without versions."""
    access: dict[str, Any] = {"driver": "core", "backing_store": False, "libver": ("v110", "v110")}
    with h5py.File(f"memory-{next(_FILE_NUMBER)}", "w", **access) as file:
        file.attrs["format"] = _fixed_text(FORMAT)
        file.attrs["format_version"] = FORMAT_VERSION
        _put_text(file, "settings", [json.dumps(settings)])
        _put_text(file, "images/name", names)
        _put(file, "images/size", sizes)
        file.create_group("versions")
        return _bytes_of(file)


def with_version(
    image: bytes,
    version: int,
    epoch: int,
    note: str,
    labels: Mapping[int, Sparse],
    pool: npt.NDArray[np.bool_],
) -> bytes:
    """The bytes of the store `image` with one more version."""
    images = sorted(labels)
    start = np.cumsum([0, *(len(labels[index].pixel) for index in images)], dtype=np.int64)
    with _in_memory(image) as file:
        group = file.create_group(f"versions/{version_name(version)}")
        group.attrs["epoch"] = epoch
        group.attrs["note"] = _fixed_text(note)
        _put(group, "image", np.asarray(images, np.int32))
        _put(group, "start", start)
        _put(group, "pixel", np.concatenate([np.zeros(0, np.int32), *(labels[i].pixel for i in images)]))
        _put(group, "value", np.concatenate([np.zeros(0, np.float32), *(labels[i].value for i in images)]))
        _put(group, "pool", pool.astype(np.uint8))
        return _bytes_of(file)


def with_versions_of(image: bytes, source: bytes, count: int) -> bytes:
    """The bytes of the store `image`, which has no versions, with the first `count` versions of `source`."""
    with _in_memory(image) as new, _in_memory(source) as old:
        for version in range(count):
            old.copy(f"versions/{version_name(version)}", new["versions"])
        return _bytes_of(new)


def version_name(version: int) -> str:
    """The group's name of a version."""
    return f"{version:06d}"


@contextlib.contextmanager
def _in_memory(image: bytes) -> Iterator[h5py.File]:
    """A store's bytes as an open file that never touches the disk.

    HDF5 must not write to a disk that may be full: after a failed write it keeps the file open and brings the
    process down when it exits. So files are put together in memory and written as plain bytes.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fapl_core(block_size=1 << 20, backing_store=False)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_file_image(image)
    with h5py.File(
        h5py.h5f.open(f"memory-{next(_FILE_NUMBER)}".encode(), h5py.h5f.ACC_RDWR, fapl=access)
    ) as file:
        yield file


def _bytes_of(file: h5py.File) -> bytes:
    """The bytes that `file` would have on the disk."""
    file.flush()
    return bytes(file.id.get_file_image())


def _put(group: h5py.Group, name: str, data: npt.NDArray[Any]) -> None:
    """A checksummed, compressed data set; an empty one cannot have chunks."""
    if data.size == 0:
        group.create_dataset(name, data=data)
        return
    chunks = (min(len(data), _CHUNK), *data.shape[1:])
    group.create_dataset(name, data=data, chunks=chunks, compression="gzip", shuffle=True, fletcher32=True)


def _put_text(group: h5py.Group, name: str, texts: Sequence[str]) -> None:
    """Checksummed text of fixed length: HDF5 keeps text of variable length outside of its checksums."""
    data = [text.encode("utf-8") for text in texts]
    kind = h5py.string_dtype("utf-8", max(1, *(len(text) for text in data)))
    array = np.asarray(data, dtype=kind)
    group.create_dataset(name, data=array, dtype=kind, chunks=(min(len(data), _CHUNK),), fletcher32=True)


def _stored(group: h5py.Group, name: str, kind: str, most: int = _MAX_TEXTS) -> h5py.Dataset:
    """A data set of a kind of numpy type with at most so many entries, its bytes in this very file.

    HDF5 files can claim any size without holding it, and links in them may lead to any other file.
    """
    data = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
        raise ValueError(f"{name} is missing or lies outside the file")
    if data.dtype.kind != kind or data.size > most:
        raise ValueError(f"{name} has {data.size} entries of type {data.dtype}, expected at most {most}")
    return data


def _fixed_text(text: str) -> npt.NDArray[Any]:
    """Text of fixed length for an attribute: damaged text of variable length HDF5 can look for for ever."""
    data = text.encode("utf-8")
    return np.array(data, f"S{max(1, len(data))}")


def _text_of(value: object) -> object:
    """The text of an attribute; what is no text stays as it is."""
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _get_text(data: h5py.Dataset) -> tuple[str, ...]:
    """What `_put_text` wrote."""
    return tuple(bytes(text).decode("utf-8") for text in data[()])


def _require(condition: object, path: Path, what: str) -> None:
    """A `LabelError` about damage unless the condition holds."""
    if not condition:
        raise LabelError("the label store is damaged", where=path, found=what, fix=_REBUILD)
