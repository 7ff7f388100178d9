"""Writing a dataset into one HDF5 file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from .._files import atomic_path
from .._hdf5 import SafeStream, writing
from ._content import ContentHash
from .dataset import Dataset
from .packed import COLUMNS, FORMAT, VERSION, PackedDataset

_CHUNK = 2**16


def pack(
    dataset: Dataset, path: str | Path, *, progress: Callable[[int, int], None] | None = None
) -> PackedDataset:
    """Read every image of `dataset` once and write all of it to one compressed, checksummed file.

    The file appears whole or not at all, also after Ctrl-C; see `PackedDataset` for what it holds. Memory
    does not grow with the number of images. Masks are stored as read, so one that had to be resized is
    stored in its image's size, and reading it still says so.

    Args:
        dataset: what to pack.
        path: the file to write, usually `NAME.h5`; an existing one is replaced.
        progress: called with (images done, images in all) after each image.

    Returns:
        The packed dataset, opened.

    Raises:
        DataError: an image that cannot be used.
        WriteError: the file cannot be written; an existing one is untouched.
    """
    with atomic_path(path) as partial, writing(partial) as (file, disk):
        _write(dataset, file, progress, disk)
    return PackedDataset(path)


def _write(
    dataset: Dataset, file: h5py.File, progress: Callable[[int, int], None] | None, disk: SafeStream
) -> None:
    flat = {
        name: file.create_dataset(
            name,
            shape=(0, *row),
            maxshape=(None, *row),
            dtype=dtype,
            chunks=(_CHUNK // max(1, 16 * len(row)), *row),
            compression="gzip",
            compression_opts=4,
            fletcher32=True,
        )
        for name, dtype, row in (("images", "u1", ()), ("masks", "u1", ()), ("points", "i8", (2,)))
    }
    columns: dict[str, list[int]] = {column: [] for column in COLUMNS}
    notes: dict[str, str] = {}
    content = ContentHash()
    for done, name in enumerate(dataset.names, 1):
        record = dataset.read(name)
        content.add(record)
        _append(flat["images"], record.image.reshape(-1))
        mask = np.zeros_like(record.image) if record.mask is None else record.mask.astype(np.uint8)
        _append(flat["masks"], mask.reshape(-1))
        _append(flat["points"], record.points)
        row = (*record.image.shape, record.mask is not None, len(record.points))
        for column, value in zip(COLUMNS, row, strict=True):
            columns[column].append(value)
        if record.note is not None:
            notes[name] = record.note
        disk.check()
        if progress is not None:
            progress(done, len(dataset))
    for column, values in columns.items():
        _put(file, column, np.array(values, bool if column == "has_mask" else np.int64))
    index = {
        "names": dataset.names,
        "splits": dict(dataset.splits),
        "notes": notes,
        "unannotated": [name for name in dataset.names if name in dataset.unannotated],
        "source": str(dataset.root),
    }
    encoded = json.dumps(index, ensure_ascii=False).encode("utf-8")
    _put(file, "index", np.frombuffer(encoded, np.uint8))
    file.attrs["version"] = VERSION
    texts = {"format": FORMAT, "layout": dataset.layout, "split_hash": dataset.split_hash()}
    texts["content_hash"] = content.hexdigest()
    for name, text in texts.items():
        # Of fixed length: HDF5 keeps other text outside of its checksums, and can look for it for ever.
        file.attrs[name] = np.bytes_(text.encode("utf-8"))


def _put(file: h5py.File, name: str, values: np.ndarray) -> None:
    # Compressed for the damage that this finds: zeros pass for a checksum of zeros.
    chunks = (min(len(values), _CHUNK),)
    file.create_dataset(name, data=values, chunks=chunks, compression="gzip", fletcher32=True)


def _append(target: h5py.Dataset, rows: np.ndarray) -> None:
    if len(rows):
        start = len(target)
        target.resize(start + len(rows), axis=0)
        target[start:] = rows
