"""Opening a dataset: its layout, its splits, its files, and everything that can be wrong with them."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_files import one_target, write

from istd.data import (
    Dataset,
    DataWarning,
    Layout,
    centroid_points,
    list_layouts,
    load_names,
    load_split,
    open_dataset,
    register_layout,
)
from istd.data._fit import fit_mask, is_uniform_scale
from istd.data.layouts import _registry
from istd.errors import ConfigError, DataError

NAMES = [f"Misc_{i}" for i in range(1, 7)]


@pytest.fixture
def sirst(tmp_path: Path) -> Path:
    """Six images of different sizes in the layout of SIRST v1: three train, one val, two test."""
    root = tmp_path / "sirst"
    for i, name in enumerate(NAMES):
        size = (20 + i, 30 - i)
        write(root / "images" / f"{name}.png", np.full(size, 10 * i, np.uint8))
        write(root / "masks" / f"{name}_pixels0.png", one_target(size, 5 + i, 7))
    splits = {"train": NAMES[:3], "val": NAMES[3:4], "test": NAMES[4:], "trainval": NAMES[:4]}
    for split, names in splits.items():
        (root / "idx_427").mkdir(exist_ok=True)
        (root / "idx_427" / f"{split}.txt").write_text("\n".join(names) + "\n\n")
    return root


def test_sirst_v1_is_recognised(sirst: Path) -> None:
    data = open_dataset(sirst)
    assert data.layout == "sirst-v1"
    assert data.splits == {"train": tuple(NAMES[:3]), "val": tuple(NAMES[3:4]), "test": tuple(NAMES[4:])}
    assert len(data) == 6
    assert data.names == tuple(NAMES)
    record = data.read("Misc_2")
    assert record.image.shape == (21, 29)
    assert record.image.dtype == np.uint8
    assert record.mask is not None
    assert record.mask.dtype == bool
    assert record.mask.sum() == 9
    assert record.points.tolist() == [[6, 7]]
    assert "train: 3, val: 1, test: 2" in repr(data)


def test_load_split(sirst: Path) -> None:
    data = open_dataset(sirst)
    seen: list[tuple[int, int]] = []
    images = load_split(data, ["train", "val"], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert images.names == tuple(NAMES[:4])
    assert len(images) == images.num_points == 4
    assert images.masks is not None
    for i, name in enumerate(images.names):
        record = data.read(name)
        np.testing.assert_array_equal(images.images.image(i), record.image)
        np.testing.assert_array_equal(images.masks.image(i), record.mask)
        np.testing.assert_array_equal(images.points[i], record.points)
    assert load_names(data, ["Misc_5", "Misc_1"]).names == ("Misc_5", "Misc_1")


def test_unknown_names_and_splits(sirst: Path) -> None:
    data = open_dataset(sirst)
    with pytest.raises(DataError, match="Misc_99"):
        data.read("Misc_99")
    with pytest.raises(DataError, match="no split 'training'"):
        load_split(data, "training")
    with pytest.raises(DataError, match="no image to load"):
        load_names(data, [])


def test_the_split_hash_is_what_it_says(sirst: Path) -> None:
    import hashlib

    lines = ["train", *NAMES[:3], "val", *NAMES[3:4], "test", *NAMES[4:]]
    expected = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    assert open_dataset(sirst).split_hash() == expected
    shuffled = sirst / "idx_427" / "train.txt"
    shuffled.write_text("\n".join(reversed(NAMES[:3])))
    assert open_dataset(sirst).split_hash() == expected
    shuffled.write_text("\n".join(NAMES[:2]))
    assert open_dataset(sirst).split_hash() != expected


def test_split_files_with_windows_line_ends_and_suffixes(sirst: Path) -> None:
    lines = "\r\n".join(f"  {name}.png" for name in NAMES[:3])
    (sirst / "idx_427" / "train.txt").write_bytes(("﻿" + lines).encode())
    assert open_dataset(sirst).splits["train"] == tuple(NAMES[:3])


def test_a_scaled_mask_is_resized_and_said_once(sirst: Path) -> None:
    size = (22, 28)
    write(sirst / "masks" / "Misc_3_pixels0.png", one_target((40, 51), 20, 30))
    assert is_uniform_scale(size, (40, 51))
    data = open_dataset(sirst)
    with pytest.warns(DataWarning, match=r"Misc_3_pixels0\.png.*resized.*40 × 51.*22 × 28"):
        record = data.read("Misc_3")
    assert record.mask is not None
    assert record.mask.shape == size
    assert record.points.tolist() == [[11, 16]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.read("Misc_3").note == record.note


def test_a_mask_of_another_shape_is_refused_by_name(sirst: Path) -> None:
    write(sirst / "masks" / "Misc_3_pixels0.png", one_target((40, 40), 20, 30))
    with pytest.raises(DataError, match="no single scale factor") as caught:
        open_dataset(sirst).read("Misc_3")
    assert "Misc_3_pixels0.png" in str(caught.value)
    assert "40 × 40" in str(caught.value)


@pytest.mark.parametrize(
    ("size", "other", "expected"),
    [
        ((220, 325), (400, 592), True),
        ((100, 100), (200, 200), True),
        ((256, 256), (128, 128), True),
        ((256, 256), (255, 256), False),
        ((220, 325), (325, 220), False),
        ((100, 200), (100, 210), False),
    ],
)
def test_uniform_scale(size: tuple[int, int], other: tuple[int, int], expected: bool) -> None:
    assert is_uniform_scale(size, other) == is_uniform_scale(other, size) == expected


def test_fitting_keeps_areas_and_every_target() -> None:
    mask = np.zeros((100, 100), bool)
    mask[10:30, 20:40] = True
    mask[70, 70] = mask[90:92, 5] = True
    smaller = fit_mask(mask, (40, 40), Path("image"), Path("mask"))
    assert smaller[4:12, 8:16].all()
    assert cv2.connectedComponents(smaller.astype(np.uint8))[0] == 4
    assert smaller.sum() == 64 + 2
    larger = fit_mask(mask, (200, 200), Path("image"), Path("mask"))
    assert np.abs(centroid_points(larger) - 2 * centroid_points(mask)).max() <= 2
    assert larger.sum() == pytest.approx(4 * mask.sum(), rel=0.02)


def test_a_name_without_image(sirst: Path) -> None:
    (sirst / "images" / "Misc_5.png").unlink()
    with pytest.raises(DataError, match="'test' names images that are not there") as caught:
        open_dataset(sirst)
    assert "1 of 2: Misc_5" in str(caught.value)
    assert "test.txt" in str(caught.value)


def test_an_image_without_mask(sirst: Path) -> None:
    (sirst / "masks" / "Misc_5_pixels0.png").unlink()
    with pytest.raises(DataError, match="Misc_5 has neither points nor a mask"):
        open_dataset(sirst).read("Misc_5")


def test_damaged_images_and_gray_masks_are_named(sirst: Path) -> None:
    path = sirst / "images" / "Misc_1.png"
    path.write_bytes(path.read_bytes()[:-30])
    write(sirst / "masks" / "Misc_2_pixels0.png", np.arange(21 * 29, dtype=np.uint8).reshape(21, 29))
    data = open_dataset(sirst)
    with pytest.raises(DataError, match=r"Misc_1\.png"):
        data.read("Misc_1")
    with pytest.raises(DataError, match=r"Misc_2_pixels0\.png"):
        load_names(data, ["Misc_4", "Misc_2"])


@pytest.mark.parametrize(("split", "message"), [("train", "twice in"), ("val", "in 'train' and")])
def test_duplicates_within_and_between_splits(sirst: Path, split: str, message: str) -> None:
    with (sirst / "idx_427" / f"{split}.txt").open("a") as stream:
        stream.write("Misc_1\n")
    with pytest.raises(DataError, match=message):
        open_dataset(sirst)


def test_empty_splits(sirst: Path) -> None:
    (sirst / "idx_427" / "val.txt").write_text("\n")
    data = open_dataset(sirst)
    with pytest.raises(DataError, match="'val' is empty"):
        load_split(data, "val")
    for split in ("train", "test"):
        (sirst / "idx_427" / f"{split}.txt").write_text("")
    with pytest.raises(DataError, match="no split has an image"):
        open_dataset(sirst)


def test_missing_and_binary_split_files(sirst: Path) -> None:
    (sirst / "idx_427" / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"val\.txt.*cannot be read"):
        open_dataset(sirst)
    (sirst / "idx_427" / "val.txt").unlink()
    with pytest.raises(DataError, match=r"val\.txt.*cannot be read"):
        open_dataset(sirst)


@pytest.mark.parametrize(
    "entry", ["../secret", "/etc/passwd", "..", "a/b", "a\\b", "C:x", "a\x00b", "a\x1b[2J"]
)
def test_entries_that_are_paths_are_refused(sirst: Path, entry: str) -> None:
    with (sirst / "idx_427" / "test.txt").open("a") as stream:
        stream.write(entry + "\n")
    with pytest.raises(DataError, match=r"test\.txt.*is not the name of an image"):
        open_dataset(sirst)


@pytest.mark.parametrize("what", ["images/Misc_1.png", "masks/Misc_1_pixels0.png"])
def test_links_out_of_the_folder_are_refused(sirst: Path, tmp_path: Path, what: str) -> None:
    outside = tmp_path / "outside.png"
    (sirst / what).rename(outside)
    (sirst / what).symlink_to(outside)
    with pytest.raises(DataError, match="leads out of") as caught:
        open_dataset(sirst).read("Misc_1")
    assert what in str(caught.value)


def test_links_inside_the_folder_and_to_the_folder_work(sirst: Path, tmp_path: Path) -> None:
    path = sirst / "images" / "Misc_1.png"
    path.rename(sirst / "stored.png")
    path.symlink_to(sirst / "stored.png")
    (tmp_path / "link").symlink_to(sirst)
    assert open_dataset(tmp_path / "link").read("Misc_1").image.shape == (20, 30)


def test_a_split_file_that_links_out_is_refused(sirst: Path, tmp_path: Path) -> None:
    (sirst / "idx_427" / "val.txt").unlink()
    (tmp_path / "val.txt").write_text("Misc_4")
    (sirst / "idx_427" / "val.txt").symlink_to(tmp_path / "val.txt")
    with pytest.raises(DataError, match="leads out of"):
        open_dataset(sirst)


def test_no_training_point_at_all(sirst: Path) -> None:
    for i, name in enumerate(NAMES[:3]):
        write(sirst / "masks" / f"{name}_pixels0.png", np.zeros((20 + i, 30 - i), np.uint8))
    data = open_dataset(sirst)
    with pytest.raises(DataError, match="not a single point in train"):
        load_split(data, "train")
    assert load_split(data, "train", require_points=False).num_points == 0
    assert load_split(data, ("train", "val")).num_points == 1
    with pytest.raises(DataError, match="not a single point"):
        load_split(data, "train", require_points=True)


def test_folders_of_no_known_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        open_dataset(tmp_path / "gone")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match="none of the known layouts") as caught:
        open_dataset(tmp_path)
    assert "pictures/" in str(caught.value)
    assert "sirst-v1" in str(caught.value)


def test_layouts_by_name(sirst: Path) -> None:
    assert {"folder", "sirst-v1"} <= set(list_layouts())
    with pytest.raises(DataError, match="unknown layout"):
        open_dataset(sirst, layout="sirst-v9")
    with pytest.warns(DataWarning, match="no split files"):
        assert open_dataset(sirst, layout="folder").layout == "folder"
    with pytest.raises(ConfigError):
        open_dataset(sirst, mask_threshold=255)


def test_a_new_layout_is_one_registration(
    sirst: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_registry, "_LAYOUTS", dict(_registry._LAYOUTS))

    def opened(root: Path, mask_threshold: float | None) -> Dataset:
        return open_dataset(sirst, mask_threshold=mask_threshold)

    mine = Layout("mine", "a file named MINE", lambda root: (root / "MINE").exists(), opened)
    register_layout(mine)
    (tmp_path / "MINE").touch()
    assert len(open_dataset(tmp_path)) == 6
    with pytest.raises(ValueError, match="registered already"):
        register_layout(mine)
    (sirst / "MINE").touch()
    with pytest.raises(DataError, match="more than one layout"):
        open_dataset(sirst)
