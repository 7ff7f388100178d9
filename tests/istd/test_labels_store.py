"""The label store: exact round trips, files that are no good, and wrong use."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from label_store_recipe import NAMES, SIZES, assert_same, label, new_store, sparse_label

from istd.errors import LabelError
from istd.labels import LabelStore, Version
from istd.labels import _store_format as disk

# --- versions --------------------------------------------------------------------------------------------


def test_every_version_comes_back_bit_for_bit(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    current = [label(0, i, size) for i, size in enumerate(SIZES)]
    states = [list(current)]
    pools = [store.pool()]
    for version in range(1, 5):
        changed = version % 3
        current[changed] = sparse_label(version, SIZES[changed])
        pool = np.array([True, version >= 3, True])
        assert (
            store.commit(10 * version, {NAMES[changed]: current[changed]}, pool=pool, note=f"v{version}")
            == version
        )
        states.append(list(current))
        pools.append(pool)
    for opened in (store, LabelStore.open(tmp_path / "labels.h5", names=NAMES, sizes=SIZES)):
        assert opened.latest == 4
        assert opened.settings == {"method": "contrast", "fraction": 0.3, "nested": {"a": [1, 2]}}
        assert_same(opened.labels(), states[-1])
        for version, state in enumerate(states):
            assert_same(opened.labels(version), state)
            np.testing.assert_array_equal(opened.pool(version), pools[version])
        assert_same([opened.label("b", 0), opened.label(2, 1)], [states[0][1], states[1][2]])


def test_history_says_what_changed_and_who_entered(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    fresh = sparse_label(1, SIZES[1])
    store.commit(5, {0: store.label(0), 1: fresh}, pool=np.array([True, True, False]), note="mined")
    store.commit(10, {})
    expected = (
        Version(0, 0, ("a.png", "b", "ç/d"), ("a.png", "ç/d"), (), 2, "first"),
        Version(1, 5, ("b",), ("b",), ("ç/d",), 2, "mined"),  # the label that stayed the same is not listed
        Version(2, 10, (), (), (), 2, ""),
    )
    assert store.history() == expected
    assert LabelStore.open(store.path).history() == expected


def test_odd_values_survive(tmp_path: Path) -> None:
    odd = np.array(
        [
            [
                0.0,
                -0.0,
                1.0,
                np.nextafter(np.float32(0), np.float32(1)),
                np.nextafter(np.float32(1), np.float32(0)),
            ]
        ]
    )
    store = LabelStore.create(tmp_path / "s.h5", ["x"], [odd.astype(np.float32)])
    assert_same(LabelStore.open(store.path).labels(), [odd.astype(np.float32)])
    empty = np.zeros((1, 5), np.float32)
    store.commit(1, {"x": empty})
    assert_same(LabelStore.open(store.path).labels(), [empty])


def test_only_changed_images_and_nonzero_pixels_are_stored(tmp_path: Path) -> None:
    size = (256, 256)
    small = np.zeros(size, np.float32)
    small[100:105, 100:105] = 0.5
    store = LabelStore.create(tmp_path / "s.h5", [str(i) for i in range(20)], [small] * 20)
    before = store.path.stat().st_size
    assert before < 20_000  # dense it would be 5 MB
    grown = small.copy()
    grown[100, 105] = 0.25
    store.commit(1, {7: grown, 8: small})
    with h5py.File(store.path) as file:
        assert file["versions/000001/image"][()].tolist() == [7]
        assert file["versions/000001/pixel"].shape == (26,)


def test_truncate_drops_later_versions_for_good(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for version in range(1, 4):
        store.commit(version, {0: sparse_label(version, SIZES[0])})
    store.truncate(1)
    assert store.latest == LabelStore.open(store.path).latest == 1
    assert_same(store.labels(), [sparse_label(1, SIZES[0]), label(0, 1, SIZES[1]), label(0, 2, SIZES[2])])
    # A resumed run commits again, and arrives at the same file as one that was never interrupted.
    store.commit(2, {0: sparse_label(2, SIZES[0])})
    resumed = store.path.read_bytes()
    store.truncate(store.latest)
    assert store.path.read_bytes() == resumed
    straight = new_store(tmp_path / "straight")
    for version in range(1, 3):
        straight.commit(version, {0: sparse_label(version, SIZES[0])})
    for version in range(3):
        assert_same(store.labels(version), straight.labels(version))
    assert store.history() == straight.history()


def test_equal_commits_make_equal_files(tmp_path: Path) -> None:
    stores = [new_store(tmp_path / name) for name in ("one", "two")]
    for store in stores:
        store.commit(1, {1: sparse_label(1, SIZES[1])}, note="x")
    assert stores[0].path.read_bytes() == stores[1].path.read_bytes()


# --- files that are no good ------------------------------------------------------------------------------


def test_damage_is_found_or_harmless(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.commit(1, {0: sparse_label(1, SIZES[0])}, pool=np.array([True, True, True]))
    expected, history = [store.labels(v) for v in range(2)], store.history()
    whole = store.path.read_bytes()
    broken = tmp_path / "broken.h5"
    rng = np.random.default_rng(1)
    refused = 0
    for position in rng.choice(len(whole), 150, replace=False):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        broken.write_bytes(damaged)
        try:
            found = LabelStore.open(broken)
            for version in range(2):
                assert_same(found.labels(version), expected[version])
            assert found.history() == history
            assert found.names == tuple(NAMES)
        except LabelError as error:
            refused += str(broken) in str(error)
    assert refused > 10


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    whole = store.path.read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        store.path.write_bytes(whole[:length])
        with pytest.raises(LabelError, match="damaged, cut short"):
            LabelStore.open(store.path)


def test_foreign_and_newer_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no label store here"):
        LabelStore.open(tmp_path / "nothing.h5")
    text = tmp_path / "text.h5"
    text.write_text("labels")
    with pytest.raises(LabelError, match="no label store"):
        LabelStore.open(text)
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["x"] = 1
    with pytest.raises(LabelError, match="not a label store"):
        LabelStore.open(foreign)
    store = new_store(tmp_path)
    with h5py.File(store.path, "r+") as file:
        file.attrs["format_version"] = disk.FORMAT_VERSION + 1
    with pytest.raises(LabelError, match="newer program"):
        LabelStore.open(store.path)


def test_a_store_with_a_missing_version_is_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.commit(1, {})
    with h5py.File(store.path, "r+") as file:
        del file["versions/000000"]
    with pytest.raises(LabelError, match="damaged"):
        LabelStore.open(store.path)


def test_inconsistent_pixels_are_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for name, index, value in (
        ("pixel", 0, 9999),
        ("value", 3, 2.0),
        ("value", 3, np.nan),
        ("start", 1, 5000),
    ):
        whole = store.path.read_bytes()
        with h5py.File(store.path, "r+") as file:
            file[f"versions/000000/{name}"][index] = value
        with pytest.raises(LabelError, match="damaged"):
            LabelStore.open(store.path).labels()
        store.path.write_bytes(whole)


def test_other_images_are_refused(tmp_path: Path) -> None:
    path = new_store(tmp_path).path
    with pytest.raises(LabelError, match=r"1 missing \['z'\], 1 extra"):
        LabelStore.open(path, names=["a.png", "b", "z"])
    with pytest.raises(LabelError, match="another order"):
        LabelStore.open(path, names=["b", "a.png", "ç/d"])
    with pytest.raises(LabelError, match="'b' has another size"):
        LabelStore.open(path, names=NAMES, sizes=[SIZES[0], (17, 16), SIZES[2]])
    with pytest.raises(LabelError, match="3 images"):
        LabelStore.open(path, sizes=SIZES[:2])


# --- wrong use -------------------------------------------------------------------------------------------


def test_create_refuses_what_it_cannot_keep(tmp_path: Path) -> None:
    path = new_store(tmp_path).path
    good = [label(0, 0, (4, 4))]
    with pytest.raises(LabelError, match="exists here already"):
        LabelStore.create(path, ["x"], good)
    assert LabelStore.create(path, ["x"], good, overwrite=True).names == ("x",)
    other = tmp_path / "other.h5"
    for names, labels in ((["x", "x"], good * 2), (["x"], good * 2), ([], [])):
        with pytest.raises(LabelError, match="unique names"):
            LabelStore.create(other, names, labels)
    with pytest.raises(LabelError, match="not float32"):
        LabelStore.create(other, ["x"], [good[0].astype(np.float64)])
    with pytest.raises(LabelError, match=r"outside \[0, 1\]"):
        LabelStore.create(other, ["x"], [good[0] + 1])
    with pytest.raises(LabelError, match="pool"):
        LabelStore.create(other, ["x"], good, pool=np.array([1.0]))
    with pytest.raises(LabelError, match="settings"):
        LabelStore.create(other, ["x"], good, settings={"a": object()})
    assert not other.exists()


def test_commit_refuses_what_does_not_fit(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.commit(5, {})
    before = store.path.read_bytes()
    with pytest.raises(LabelError, match="before the last version"):
        store.commit(4, {})
    with pytest.raises(LabelError, match="wrong size"):
        store.commit(6, {0: label(0, 0, (3, 3))})
    with pytest.raises(LabelError, match="does not hold"):
        store.commit(6, {"z": label(0, 0, SIZES[0])})
    with pytest.raises(LabelError, match="outside"):
        store.commit(6, {0: np.full(SIZES[0], np.nan, np.float32)})
    for version in (-1, 2):
        with pytest.raises(LabelError, match="no such version"):
            store.labels(version)
        with pytest.raises(LabelError, match="no such version"):
            store.truncate(version)
    assert store.path.read_bytes() == before


def test_a_second_writer_is_noticed(tmp_path: Path) -> None:
    first = new_store(tmp_path)
    second = LabelStore.open(first.path)
    second.commit(1, {0: sparse_label(1, SIZES[0])})
    with pytest.raises(LabelError, match="another process"):
        first.commit(2, {})
    third = LabelStore.open(first.path)
    second.commit(2, {})
    with pytest.raises(LabelError, match="another process"):
        third.truncate(0)
    assert LabelStore.open(first.path).latest == 2
