"""Fuzzing of packed datasets and label stores: whole, or refused by name."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from fuzzing import answer, damaged, fuzz, in_small_child, put
from hypothesis import given
from hypothesis import strategies as st

from istd.data import PackedDataset, SyntheticDataset, pack
from istd.errors import DataError, LabelError
from istd.labels import LabelStore


def _made(write: Callable[[Path], object]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.h5"
        write(path)
        return path.read_bytes()


_PACKED = _made(lambda path: pack(SyntheticDataset(num_train=2, num_val=1, num_test=1, size=(32, 32)), path))


def _store(path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = [rng.random((8, 9), np.float32) for _ in range(3)]
    store = LabelStore.create(path, ["a", "b", "c"], labels, settings={"label_settings": {}})
    store.commit(3, {"b": labels[0]}, pool=[True, False, True])


_STORE = _made(_store)


@st.composite
def changed_hdf5(draw: st.DrawFn, data: bytes) -> bytes:
    """A whole HDF5 file in which one data set or attribute is another, or gone."""
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder) / "made.h5", data)
        with h5py.File(path, "r+") as file:
            names: list[str] = []
            file.visit(names.append)
            name = draw(st.sampled_from(sorted(names)))
            holder = draw(
                st.sampled_from([file, *(file[one] for one in names if isinstance(file[one], h5py.Group))])
            )
            shape = draw(
                st.sampled_from([(), (0,), (1,), (3,), (4,), (3, 2), (2**40,), (2**20, 2**20), (2**33,)])
            )
            dtype = draw(st.sampled_from(["i1", "i4", "i8", "u1", "u8", "f4", "f8", "S4", "?", "c8"]))
            match draw(st.integers(0, 5)):
                case 0:
                    del file[name]
                case 1:
                    del file[name]
                    chunks = True if math.prod(shape) > 2**20 else None
                    fill = draw(st.sampled_from([0, 1])) if dtype[0] in "iuf" else None
                    file.create_dataset(name, shape, dtype, chunks=chunks, fillvalue=fill)
                case 2:
                    del file[name]
                    file[name] = h5py.ExternalLink("/etc/hostname", "/")
                case 3:
                    if (
                        isinstance(file[name], h5py.Dataset)
                        and file[name].dtype.kind in "iuf"
                        and file[name].size
                    ):
                        values = file[name][()]
                        values.reshape(-1)[draw(st.integers(0, values.size - 1))] = draw(
                            st.sampled_from([0, 1, 127])
                        )
                        file[name][...] = values
                case 4:
                    key = draw(st.sampled_from(sorted(holder.attrs) or ["format"]))
                    holder.attrs[key] = draw(
                        st.sampled_from(
                            [0, 1, 2**40, "x", 1.5, b"\xff", np.arange(3), np.float32(math.nan), True]
                        )
                    )
                case 5:
                    for key in sorted(holder.attrs)[:1]:
                        del holder.attrs[key]
        return path.read_bytes()


@fuzz(3)
@given(damaged(_PACKED) | changed_hdf5(_PACKED))
def test_packed_datasets_are_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder) / "data.h5", data)
        dataset = answer(lambda: PackedDataset(path), path)
        if dataset is None:
            return
        for name in dataset.names:
            record = answer(lambda name=name: dataset.read(name), path, name)
            assert record is None or record.image.shape == (32, 32)


@fuzz(3)
@given(damaged(_STORE) | changed_hdf5(_STORE))
def test_label_stores_are_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder) / "labels.h5", data)
        store = answer(lambda: LabelStore.open(path), path)
        if store is None:
            return
        assert isinstance(store.settings, dict)
        answer(store.history, path)
        for version in range(store.latest + 1):
            labels = answer(lambda version=version: store.labels(version), path)
            for label, size in zip(labels or (), store.sizes, strict=False):
                assert label.shape == size
                assert 0 <= label.min() <= label.max() <= 1
        answer(lambda: store.commit(9, {0: np.zeros(store.sizes[0], np.float32)}), path, "label of image")


def _replaced(whole: bytes, path: Path, name: str, **made: Any) -> Path:
    put(path, whole)
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, **made)
    return path


_CLAIMS = [
    (_STORE, LabelStore.open, "images/size", {"data": np.full((3, 2), 2**30, np.int32)}),
    (_STORE, LabelStore.open, "versions/000000/pixel", {"shape": (2**40,), "dtype": "i4", "chunks": True}),
    (_STORE, LabelStore.open, "versions/000000/image", {"shape": (2**40,), "dtype": "i4", "chunks": True}),
    (_STORE, LabelStore.open, "settings", {"shape": (2**40,), "dtype": "S64", "chunks": True}),
    (_PACKED, PackedDataset, "index", {"shape": (2**40,), "dtype": "u1", "chunks": True}),
    (_PACKED, PackedDataset, "heights", {"shape": (2**40,), "dtype": "i8", "chunks": True}),
    (_PACKED, PackedDataset, "heights", {"data": np.full(4, 2**32, np.int64)}),
]


@pytest.mark.parametrize("number", range(len(_CLAIMS)))
def test_hdf5_files_that_claim_to_be_huge_take_no_memory(tmp_path: Path, number: int) -> None:
    data, opened, name, made = _CLAIMS[number]
    path = _replaced(data, tmp_path / "claim.h5", name, **made)

    def read() -> None:
        found = opened(path)
        if isinstance(found, LabelStore):
            found.labels()

    assert in_small_child(read) in ("LabelError", "DataError")


# What the fuzzing found.


def test_a_sector_of_zeros_anywhere_in_a_label_store_is_found(tmp_path: Path) -> None:
    labels = LabelStore.open(put(tmp_path / "whole.h5", _STORE)).labels()
    for at in range(0, len(_STORE), 127):
        path = put(tmp_path / "labels.h5", _STORE[:at] + bytes(len(_STORE[at : at + 64])) + _STORE[at + 64 :])
        found = answer(lambda path=path: LabelStore.open(path), path)
        read = None if found is None else answer(found.labels, path)
        assert read is None or all(np.array_equal(*pair) for pair in zip(read, labels, strict=True))


def test_a_sector_of_zeros_anywhere_in_a_packed_dataset_is_found(tmp_path: Path) -> None:
    whole = PackedDataset(put(tmp_path / "whole.h5", _PACKED))
    masks = {name: whole.read(name).mask for name in whole.names}
    for at in range(0, len(_PACKED), 127):
        path = put(
            tmp_path / "data.h5", _PACKED[:at] + bytes(len(_PACKED[at : at + 64])) + _PACKED[at + 64 :]
        )
        found = answer(lambda path=path: PackedDataset(path), path)
        for name in () if found is None else found.names:
            record = answer(lambda name=name, found=found: found.read(name), path)
            assert record is None or np.array_equal(record.mask, masks[name])


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("heights", {"data": np.full(4, math.nan)}),
        ("widths", {"data": np.full(4, b"x")}),
        ("has_mask", {"data": np.arange(4)}),
    ],
)
def test_columns_of_a_packed_dataset_are_whole_numbers(
    tmp_path: Path, name: str, made: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match="no whole numbers"):
        PackedDataset(_replaced(_PACKED, tmp_path / "data.h5", name, **made))


def test_a_packed_dataset_with_an_index_like_a_tower_is_damaged(tmp_path: Path) -> None:
    tower = np.frombuffer(b"[" * 100_000, np.uint8)
    with pytest.raises(DataError, match="damaged"):
        PackedDataset(_replaced(_PACKED, tmp_path / "data.h5", "index", data=tower))


@pytest.mark.parametrize(
    ("name", "made", "words"),
    [
        ("images/name", {"data": np.array([b"a", b"a", b"c"])}, "two images of one name"),
        ("settings", {"data": np.array([b"[1]"])}, "no object"),
        ("images/size", {"data": np.full((3, 2), 8.5)}, "float64"),
    ],
)
def test_a_label_store_of_other_contents_is_damaged(
    tmp_path: Path, name: str, made: dict[str, Any], words: str
) -> None:
    with pytest.raises(LabelError, match=words):
        LabelStore.open(_replaced(_STORE, tmp_path / "labels.h5", name, **made))


def test_versions_of_a_label_store_are_a_group(tmp_path: Path) -> None:
    made = {"shape": (2**40,), "dtype": "i4", "chunks": True}
    path = _replaced(_STORE, tmp_path / "labels.h5", "versions", **made)
    assert in_small_child(lambda: LabelStore.open(path), seconds=20) == "LabelError"


def test_a_label_store_does_not_read_other_files(tmp_path: Path) -> None:
    other, path = put(tmp_path / "other.h5", _STORE), put(tmp_path / "labels.h5", _STORE)
    with h5py.File(path, "r+") as file:
        del file["versions/000000/value"]
        file["versions/000000/value"] = h5py.ExternalLink(str(other), "versions/000000/value")
    with pytest.raises(LabelError, match="outside the file"):
        LabelStore.open(path).labels()
