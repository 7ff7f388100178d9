"""The reader on the real SIRST v1 set; skipped where that is absent."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from istd.data import DataWarning, Record, measure_targets, open_dataset, pack


@pytest.fixture(scope="module")
def records(sirst_root: Path) -> tuple[dict[str, list[Record]], list[str]]:
    """Split → records, and what the reader said."""
    data = open_dataset(sirst_root)
    assert data.layout == "sirst-v1"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = {split: [data.read(name) for name in names] for split, names in data.splits.items()}
        for name in data.splits["test"]:
            data.read(name)
    return found, [str(one.message) for one in said if issubclass(one.category, DataWarning)]


def test_the_official_split(records: tuple[dict[str, list[Record]], list[str]]) -> None:
    found, _ = records
    assert {split: len(some) for split, some in found.items()} == {"train": 256, "val": 85, "test": 86}
    assert len({record.name for some in found.values() for record in some}) == 427


def test_one_mask_of_another_size_said_once(records: tuple[dict[str, list[Record]], list[str]]) -> None:
    found, said = records
    assert len(said) == 1
    assert "Misc_111_pixels0.png" in said[0]
    noted = [record for some in found.values() for record in some if record.note is not None]
    assert [record.name for record in noted] == ["Misc_111"]
    (record,) = noted
    assert record.mask is not None
    assert record.mask.shape == record.image.shape == (220, 325)
    # 121 pixels at 1.82 times the size.
    assert record.mask.sum() == pytest.approx(121 / 1.82**2, abs=4)
    assert len(record.points) == 1


def test_points_of_every_split(records: tuple[dict[str, list[Record]], list[str]]) -> None:
    found, _ = records
    assert {split: sum(len(r.points) for r in some) for split, some in found.items()} == {
        "train": 327,
        "val": 97,
        "test": 109,
    }
    for some in found.values():
        for record in some:
            assert record.mask is not None
            assert len(record.points) > 0
            assert record.mask[tuple(record.points.T)].all()


def test_every_target_is_brighter_than_its_ring(records: tuple[dict[str, list[Record]], list[str]]) -> None:
    found, _ = records
    measures = [m for r in found["train"] if r.mask is not None for m in measure_targets(r.image, r.mask)]
    assert len(measures) == 327
    assert min(measure.contrast for measure in measures) > 0
    assert 15 < np.median([measure.area for measure in measures]) < 25


@pytest.mark.filterwarnings("ignore::istd.data.DataWarning")
def test_packed_it_is_the_same_set(
    sirst_root: Path, tmp_path: Path, records: tuple[dict[str, list[Record]], list[str]]
) -> None:
    data = open_dataset(sirst_root)
    packed = pack(data, tmp_path / "sirst.h5")
    assert packed.split_hash() == data.split_hash()
    for record in records[0]["test"]:
        again = packed.read(record.name)
        np.testing.assert_array_equal(again.image, record.image)
        assert record.mask is not None
        assert again.mask is not None
        np.testing.assert_array_equal(again.mask, record.mask)
        np.testing.assert_array_equal(again.points, record.points)
