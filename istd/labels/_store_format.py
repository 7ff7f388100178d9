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
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from .._hdf5 import writing
from ..errors import LabelError
from .sparse import SparseLabel

FORMAT = "istd label store"
FORMAT_VERSION = 1
_CHUNK = 1 << 15
_BLOCK = 1024  # images whose labels are read at once
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
class Entry:
    """A version to be written: which labels changed, by the images' positions, and who trains."""

    epoch: int
    note: str
    labels: Mapping[int, SparseLabel]
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
        raise LabelError(
            "there is no label store here",
            where=path,
            fix="train first, or check the path; a run of --method full has none: it trains on masks",
        )
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
) -> dict[int, SparseLabel]:
    """The labels of some images; only their part of the file is read.

    Args:
        path: the store.
        wanted: version → images to take from it; each must have changed there.
        sizes: (height, width) of every image.
    """
    found: dict[int, SparseLabel] = {}
    with reading(path) as file:
        for version, images in wanted.items():
            group = file["versions"][version_name(version)]
            image = _stored(group, "image", "i", len(sizes))[()]
            start = _stored(group, "start", "i", len(image) + 1)[()]
            most = sum(sizes[index][0] * sizes[index][1] for index in image.tolist())
            pixel, value = _stored(group, "pixel", "i", most), _stored(group, "value", "f", most)
            good = start.shape == (len(image) + 1,) and pixel.shape == value.shape == (int(start[-1]),)
            _require(
                good and start[0] == 0 and (np.diff(start) >= 0).all(),
                path,
                f"version {version} is inconsistent",
            )
            rows = np.searchsorted(image, images)
            for first in range(0, len(images), _BLOCK):
                block = slice(first, first + _BLOCK)
                parts = _parts(pixel, value, start, rows[block])
                for index, row, (where, what) in zip(images[block], rows[block].tolist(), parts, strict=True):
                    area = sizes[index][0] * sizes[index][1]
                    inside = where.size == 0 or (where[0] >= 0 and where[-1] < area)
                    inside = inside and bool((np.diff(where) > 0).all())
                    unit = bool(((what >= 0) & (what <= 1)).all())
                    _require(
                        row < len(image) and int(image[row]) == index and inside and unit,
                        path,
                        f"image {index} in version {version}",
                    )
                    found[index] = SparseLabel(sizes[index], where, what)
    return found


def _parts(
    pixel: h5py.Dataset, value: h5py.Dataset, start: npt.NDArray[Any], rows: npt.NDArray[Any]
) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]:
    """Pixels and values of some images of a version: in one piece where that reads little else."""
    low, high = int(start[rows.min()]), int(start[rows.max() + 1])
    if high - low <= 4 * int((start[rows + 1] - start[rows]).sum()) + _CHUNK:
        whole = pixel[low:high], value[low:high]
        for first, last in zip((start[rows] - low).tolist(), (start[rows + 1] - low).tolist(), strict=True):
            yield whole[0][first:last].copy(), whole[1][first:last].copy()  # else all of it would stay
    else:
        for first, last in zip(start[rows].tolist(), start[rows + 1].tolist(), strict=True):
            yield pixel[first:last], value[first:last]


def write_new(
    path: Path,
    settings: Mapping[str, Any],
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    first: Entry,
) -> None:
    """Write a store with its first version.

    Raises:
        OSError: the disk failed; so do the others that write.
    """
    with writing(path) as (file, _):
        _put_header(file, settings, names, sizes)
        _put_version(file, 0, first)


def append_version(path: Path, version: int, entry: Entry) -> None:
    """Add a version to the store at `path`, which is a copy: it is worth nothing after an error."""
    with writing(path, "r+") as (file, _):
        _put_version(file, version, entry)


def copy_versions(source: Path, target: Path, header: Header, count: int) -> None:
    """Write the store `target` with the first `count` versions of `source`."""
    with writing(target) as (new, disk):
        _put_header(new, header.settings, header.names, header.sizes)
        with reading(source) as old:
            for version in range(count):
                old.copy(f"versions/{version_name(version)}", new["versions"])
                disk.check()


def _put_header(
    file: h5py.File, settings: Mapping[str, Any], names: Sequence[str], sizes: Sequence[tuple[int, int]]
) -> None:
    file.attrs["format"] = _fixed_text(FORMAT)
    file.attrs["format_version"] = FORMAT_VERSION
    _put_text(file, "settings", [json.dumps(settings)])
    _put_text(file, "images/name", names)
    _put(file, "images/size", np.asarray(sizes, np.int32))
    file.create_group("versions")


def _put_version(file: h5py.File, version: int, entry: Entry) -> None:
    labels = entry.labels
    images = sorted(labels)
    group = file.create_group(f"versions/{version_name(version)}")
    group.attrs["epoch"] = entry.epoch
    group.attrs["note"] = _fixed_text(entry.note)
    _put(group, "image", np.asarray(images, np.int32))
    _put(group, "start", np.cumsum([0, *(len(labels[index].pixel) for index in images)], dtype=np.int64))
    count = sum(len(labels[index].pixel) for index in images)
    _put_parts(group, "pixel", count, np.int32, (labels[index].pixel for index in images))
    _put_parts(group, "value", count, np.float32, (labels[index].value for index in images))
    _put(group, "pool", entry.pool.astype(np.uint8))


def version_name(version: int) -> str:
    """The group's name of a version."""
    return f"{version:06d}"


def _put(group: h5py.Group, name: str, data: npt.NDArray[Any]) -> None:
    """A checksummed, compressed data set; an empty one cannot have chunks."""
    if data.size == 0:
        group.create_dataset(name, data=data)
        return
    chunks = (min(len(data), _CHUNK), *data.shape[1:])
    group.create_dataset(name, data=data, chunks=chunks, compression="gzip", shuffle=True, fletcher32=True)


def _put_parts(
    group: h5py.Group, name: str, count: int, dtype: type[np.generic], parts: Iterable[npt.NDArray[Any]]
) -> None:
    """What `_put` makes of the parts joined, without joining more than a chunk of them."""
    if count <= _CHUNK:
        _put(group, name, np.concatenate([np.zeros(0, dtype), *parts]))
        return
    data = group.create_dataset(
        name, (count,), dtype, chunks=(_CHUNK,), compression="gzip", shuffle=True, fletcher32=True
    )
    buffer, done = np.empty(_CHUNK, dtype), 0
    for part in parts:
        left = part
        while len(left):
            place = done % _CHUNK
            taken = left[: _CHUNK - place]
            buffer[place : place + len(taken)] = taken
            done, left = done + len(taken), left[len(taken) :]
            if done % _CHUNK == 0 or done == count:
                begin = (done - 1) // _CHUNK * _CHUNK
                data[begin:done] = buffer[: done - begin]


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
