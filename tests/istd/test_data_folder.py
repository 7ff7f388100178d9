"""A plain folder of one's own images, and the point files in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from image_files import one_target, write

from istd.data import DataWarning, load_split, open_dataset
from istd.errors import DataError


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Ten images in a plain folder."""
    root = tmp_path / "plain"
    for i in range(10):
        write(root / "images" / f"frame{i}.png", np.full((16, 16), i, np.uint8))
    return root


def test_a_plain_folder_is_split_by_its_names(plain: Path) -> None:
    with pytest.warns(DataWarning, match="6 train, 2 val, 2 test"):
        data = open_dataset(plain)
    assert data.layout == "folder"
    assert sorted(data.names) == [f"frame{i}" for i in range(10)]
    with pytest.warns(DataWarning):
        assert open_dataset(plain).splits == data.splits
    record = data.read("frame3")
    assert record.mask is None
    assert record.points.shape == (0, 2)
    images = load_split(data, "val")
    assert images.masks is None
    with pytest.raises(DataError, match="no masks and no point file"):
        load_split(data, "train")


def test_a_plain_folder_with_everything(plain: Path) -> None:
    for i in range(10):
        write(plain / "masks" / f"frame{i}.bmp", one_target((16, 16), 8, 4))
    for split, names in (("train", "012345"), ("test", "6789")):
        (plain / f"{split}.txt").write_text("\n".join(f"frame{i}.png" for i in names))
    data = open_dataset(plain)
    assert {split: len(names) for split, names in data.splits.items()} == {"train": 6, "val": 0, "test": 4}
    assert data.read("frame1").points.tolist() == [[8, 4]]


def test_names_are_compared_composed(tmp_path: Path) -> None:
    """macOS writes é in the name of a file as e and an accent, an editor in a point file as one letter."""
    decomposed, name = "vide\u0301o", "vid\u00e9o"
    write(tmp_path / "images" / f"{decomposed}.png", one_target((16, 16), 8, 4))
    write(tmp_path / "masks" / f"{name}.png", one_target((16, 16), 8, 4))
    (tmp_path / "points.csv").write_text(f"name,y,x\n{name},8,4\n", encoding="utf-8")
    (tmp_path / "train.txt").write_text(f"{decomposed}\n", encoding="utf-8")
    data = open_dataset(tmp_path)
    assert data.names == (name,)
    assert data.read(name).points.tolist() == [[8, 4]]
    write(tmp_path / "images" / f"{name}.png", one_target((16, 16), 8, 4))
    with pytest.raises(DataError, match="two images are named"):
        open_dataset(tmp_path)


def test_hidden_files_are_no_images(plain: Path) -> None:
    (plain / "images" / "._frame1.png").write_bytes(b"\0\5\x16\7")
    with pytest.warns(DataWarning, match="6 train, 2 val, 2 test"):
        assert len(open_dataset(plain).names) == 10


@pytest.mark.parametrize("kind", ["csv", "json"])
@pytest.mark.filterwarnings("ignore::istd.data.DataWarning")
def test_points_from_a_file(plain: Path, kind: str) -> None:
    if kind == "csv":
        text = "x, y, name, who\n4, 3, frame1, me\n5.4, 9.6, frame1.png, me\n4,3,frame1,me\n0,15,frame2,me\n"
        text += ",,frame3,me\n"
    else:
        text = json.dumps({"frame1": [[3, 4], [9.6, 5.4], [3, 4]], "frame2.png": [[15, 0]], "frame3": []})
    (plain / f"points.{kind}").write_text(text)
    data = open_dataset(plain)
    assert data.read("frame1").points.tolist() == [[3, 4], [10, 5]]
    assert data.read("frame2").points.tolist() == [[15, 0]]
    assert data.read("frame3").points.shape == (0, 2)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("csv", "name,x\nframe1,3\n", "lacks a column"),
        ("csv", "", "lacks a column"),
        ("csv", "name,y,x\nframe1,3\n", "line 2 is not a point"),
        ("csv", "name,y,x\nframe1,,3\n", "line 2 is not a point"),
        ("csv", "name,y,x\nframe1\n", "line 2 is not a point"),
        ("csv", "name,y,x\nframe1,nan,3\n", "line 2 is not a point"),
        ("csv", "name,y,x\nframe1,inf,3\n", "line 2 is not a point"),
        ("csv", "name,y,x\nframe77,1,3\n", "frame77"),
        ("csv", "name,y,x\n../frame1,1,3\n", "not the name"),
        ("json", "{", "cannot be read"),
        ("json", "[1]", "not an object"),
        ("json", '{"frame1": [3, 4]}', "not pairs"),
        ("json", '{"frame1": [["a", 4]]}', "is not a point"),
    ],
)
@pytest.mark.filterwarnings("ignore::istd.data.DataWarning")
def test_damaged_point_files(plain: Path, kind: str, text: str, message: str) -> None:
    (plain / f"points.{kind}").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(plain)
    assert f"points.{kind}" in str(caught.value)


@pytest.mark.filterwarnings("ignore::istd.data.DataWarning")
def test_a_point_outside_the_image(plain: Path) -> None:
    (plain / "points.csv").write_text("name,y,x\nframe1,3,16\nframe2,-1,3\n")
    data = open_dataset(plain)
    for name in ("frame1", "frame2"):
        with pytest.raises(DataError, match=f"a point of {name} lies outside"):
            data.read(name)


@pytest.mark.filterwarnings("ignore::istd.data.DataWarning")
def test_ambiguous_folders(plain: Path) -> None:
    (plain / "points.csv").write_text("name,y,x\n")
    (plain / "points.json").write_text("{}")
    with pytest.raises(DataError, match="two point files"):
        open_dataset(plain)
    write(plain / "images" / "frame1.bmp", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"two images are named frame1"):
        open_dataset(plain)
