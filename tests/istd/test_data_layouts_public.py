"""Tiny copies of the public layouts, in every kind of image file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_files import write
from PIL import Image

from istd.data import (
    centroid_points,
    list_layouts,
    open_dataset,
    read_point_image,
    read_points,
    write_point_image,
    write_points,
)
from istd.errors import DataError

SIZE = (24, 30)
NAMES = [f"img_{i}" for i in range(6)]
SPLITS = {"train": NAMES[:3], "val": NAMES[3:4], "test": NAMES[4:]}


def image_of(name: str) -> np.ndarray:
    rng = np.random.default_rng(NAMES.index(name))
    return rng.integers(0, 200, SIZE, dtype=np.uint8)


def mask_of(name: str) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    i = NAMES.index(name)
    mask[4 + i : 7 + i, 8:11] = 255
    return mask


def dots(name: str, shift: int = 0) -> np.ndarray:
    image = np.zeros(SIZE, np.uint8)
    y, x = centroid_points(mask_of(name))[0]
    image[y, x + shift] = 255
    return image


def lists(folder: Path, template: str = "{}.txt", splits: dict[str, list[str]] = SPLITS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, names in splits.items():
        (folder / template.format(split)).write_text("\n".join(names) + "\n")


def images_and(root: Path, images: str, masks: str, ending: str = "") -> None:
    for name in NAMES:
        write(root / images / f"{name}.png", image_of(name))
        write(root / masks / f"{name}{ending}.png", mask_of(name))


def sirst_v1(root: Path) -> None:
    images_and(root, "images", "masks", "_pixels0")
    lists(root / "idx_427")


def sirst_v2(root: Path) -> None:
    images_and(root, "mixed", "annotations/masks", "_pixels0")
    write(root / "annotations/masks/img_5_pixels0.png", np.zeros(SIZE, np.uint8))
    lists(root / "splits", "{}_full.txt")
    lists(root / "splits", "{}_v1fullv2target.txt", {"test": NAMES[:2]})


def dnanet_ratio(root: Path) -> None:
    images_and(root, "images", "masks")
    lists(root / "50_50", splits={"train": NAMES[:4], "test": NAMES[4:]})


def dnanet_index(root: Path) -> None:
    images_and(root, "images", "masks")
    lists(root / "img_idx", "{}_NUDT-SIRST.txt")
    (root / "img_idx" / "test_other.txt").write_text("img_0\n")


def lesps(root: Path) -> None:
    dnanet_index(root)
    for name in NAMES:
        write(root / "masks_centroid" / f"{name}.png", dots(name))
        write(root / "masks_coarse" / f"{name}.png", dots(name, shift=1))


def sirst3(root: Path) -> None:
    for name in NAMES:
        write(root / "images" / f"{name}.png", image_of(name))
        write(root / "masks_centroid" / f"{name}.png", dots(name))
    for name in SPLITS["test"]:
        write(root / "labels" / f"{name}.png", mask_of(name))
    lists(root / "mode")


def pal(root: Path) -> None:
    for name in NAMES:
        folder = root / ("val" if name in SPLITS["test"] else "origin")
        write(folder / "img" / f"{name}.png", image_of(name))
        write(folder / "mask" / f"{name}.png", mask_of(name))
        if folder.name == "origin":
            write(folder / "masks_coarse" / f"{name}.png", dots(name, shift=1))


@pytest.mark.parametrize(
    ("make", "layout", "counts"),
    [
        (sirst_v1, "sirst-v1", (3, 1, 2)),
        (sirst_v2, "sirst-v2", (3, 1, 2)),
        (dnanet_ratio, "dnanet", (4, 0, 2)),
        (dnanet_index, "dnanet", (3, 1, 2)),
        (lesps, "dnanet", (3, 1, 2)),
        (sirst3, "sirst3", (3, 1, 2)),
        (pal, "pal", (4, 0, 2)),
    ],
)
def test_public_layouts_are_recognised_and_read(
    tmp_path: Path, make: Callable[[Path], None], layout: str, counts: tuple[int, ...]
) -> None:
    make(tmp_path)
    data = open_dataset(tmp_path)
    assert data.layout == layout
    assert layout in list_layouts()
    assert tuple(len(names) for names in data.splits.values()) == counts
    before = data.content_key()
    for name in data.names:
        record = data.read(name)
        np.testing.assert_array_equal(record.image, image_of(name))
        if record.mask is not None and not (make is sirst_v2 and name == "img_5"):
            np.testing.assert_array_equal(record.mask, mask_of(name) > 0)
        shift = 1 if make is pal and name in NAMES[:4] else 0
        expected = [] if make is sirst_v2 and name == "img_5" else [[5 + NAMES.index(name), 9 + shift]]
        assert record.points.tolist() == expected
    (tmp_path / "points.csv").write_text("name,y,x\nimg_0,2,3\n")
    assert open_dataset(tmp_path).read("img_0").points.tolist() == [[2, 3]]
    assert open_dataset(tmp_path).content_key() != before


def test_sirst3_masks_are_optional_but_not_both(tmp_path: Path) -> None:
    sirst3(tmp_path)
    assert open_dataset(tmp_path).read("img_0").mask is None
    (tmp_path / "masks_centroid" / "img_4.png").unlink()
    assert open_dataset(tmp_path).read("img_4").points.tolist() == [[9, 9]]
    (tmp_path / "masks_centroid" / "img_0.png").unlink()
    with pytest.raises(DataError, match="img_0 has neither points nor a mask"):
        open_dataset(tmp_path).read("img_0")


def test_pal_with_a_test_folder(tmp_path: Path) -> None:
    pal(tmp_path)
    write(tmp_path / "test" / "img" / "more.png", image_of("img_0"))
    data = open_dataset(tmp_path)
    assert data.splits == {"train": tuple(NAMES[:4]), "val": tuple(NAMES[4:]), "test": ("more",)}
    with pytest.raises(DataError, match="more has neither points nor a mask"):
        data.read("more")


def test_which_lists_of_dnanet(tmp_path: Path) -> None:
    root = tmp_path / "NUDT-SIRST"
    dnanet_index(root)
    (root / "img_idx" / "train_other.txt").write_text("img_1\n")
    assert len(open_dataset(root).splits["train"]) == 3
    root = root.rename(tmp_path / "mine")
    with pytest.raises(DataError, match="cannot be told") as caught:
        open_dataset(root)
    assert "train_other.txt" in str(caught.value)
    for path in (root / "img_idx").glob("train_*"):
        path.unlink()
    with pytest.raises(DataError, match="no training list"):
        open_dataset(root)


def test_two_layouts_in_one_folder(tmp_path: Path) -> None:
    sirst_v1(tmp_path)
    lists(tmp_path / "50_50")
    with pytest.raises(DataError, match="more than one layout") as caught:
        open_dataset(tmp_path)
    assert "dnanet" in str(caught.value)
    assert "sirst-v1" in str(caught.value)
    assert open_dataset(tmp_path, layout="dnanet").layout == "dnanet"


def test_the_folder_above_a_dataset_is_told_from_it(tmp_path: Path) -> None:
    pal(tmp_path / "SIRST3")
    with pytest.raises(DataError, match=r"did you mean .*SIRST3\?") as caught:
        open_dataset(tmp_path)
    for layout in ("sirst-v1", "sirst-v2", "dnanet", "sirst3", "pal", "folder"):
        assert f"{layout}: " in str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        *((suffix, kind) for suffix in ("png", "bmp", "tif") for kind in ("gray", "rgb", "rgba", "palette")),
        *((suffix, "gray16") for suffix in ("png", "tif")),
        *(("jpg", kind) for kind in ("gray", "rgb")),
    ],
)
@pytest.mark.filterwarnings("ignore::istd.data.DataWarning")
def test_every_kind_of_image_in_a_plain_folder(tmp_path: Path, kind: str, suffix: str) -> None:
    gray = np.repeat(np.arange(24, dtype=np.uint8)[:, None] * 10, 30, axis=1)
    made = {
        "gray": lambda: Image.fromarray(gray),
        "rgb": lambda: Image.fromarray(np.repeat(gray[..., None], 3, 2)),
        "rgba": lambda: Image.fromarray(np.dstack([gray, gray, gray, np.full_like(gray, 255)])),
        "palette": lambda: Image.fromarray(gray).convert("P"),
        "gray16": lambda: Image.fromarray(gray.astype(np.uint16) * 257),
    }[kind]()
    made.save(tmp_path / f"one.{suffix}")
    (tmp_path / "points.csv").write_text("name,y,x\none,3,4\n")
    record = open_dataset(tmp_path).read("one")
    assert record.image.shape == SIZE
    expected = np.rint(gray * (255 / 230)) if kind == "gray16" else gray
    assert np.abs(record.image.astype(int) - expected).max() <= (3 if suffix == "jpg" else 0)
    assert record.points.tolist() == [[3, 4]]


@pytest.mark.filterwarnings("ignore::istd.data.DataWarning")
def test_points_as_images(tmp_path: Path) -> None:
    for name in NAMES:
        write(tmp_path / f"{name}.png", image_of(name))
    write(tmp_path / "points" / "img_0.png", dots("img_0"))
    big = np.zeros((48, 60), np.uint8)
    big[9:12, 30:33] = 1
    write(tmp_path / "points" / "img_1.png", big)
    write(tmp_path / "points" / "img_2.png", np.full(SIZE, 255, np.uint8))
    write(tmp_path / "points" / "img_3.png", np.zeros((24, 60), np.uint8))
    data = open_dataset(tmp_path)
    assert data.read("img_0").points.tolist() == [[5, 9]]
    with pytest.warns(UserWarning, match=r"points 48 × 60, image 24 × 30"):
        assert data.read("img_1").points.tolist() == [[5, 15]]
    with pytest.raises(DataError, match="no image of points"):
        data.read("img_2")
    with pytest.raises(DataError, match="no single scale factor"):
        data.read("img_3")
    with pytest.raises(DataError, match="neither points nor a mask"):
        data.read("img_4")


def test_points_from_coco(tmp_path: Path) -> None:
    path = tmp_path / "points.json"
    content = {
        "images": [{"id": 1, "file_name": "some/folder/a.png"}, {"id": 2, "file_name": "b.png"}],
        "annotations": [
            {"image_id": 1, "bbox": [10, 20, 3, 5]},
            {"image_id": 1, "keypoints": [7, 8, 2], "bbox": [0, 0, 1, 1]},
            {"image_id": 1, "segmentation": [[4, 6, 7, 6, 7, 9]]},
        ],
    }
    path.write_text(json.dumps(content))
    points = read_points(path, {"a", "b"})
    assert points["a"].tolist() == [[22, 11], [8, 7], [7, 5]]
    assert points["b"].shape == (0, 2)
    content["annotations"] = [{"image_id": 9, "bbox": [1, 2, 3, 4]}]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="COCO file is damaged"):
        read_points(path, {"a", "b"})
    # Names lose their folder: of two images of one name the points would be joined.
    two = [{"id": 1, "file_name": "x/a.png"}, {"id": 2, "file_name": "y/a.tif"}]
    path.write_text(json.dumps({"images": two, "annotations": []}))
    with pytest.raises(DataError, match=r"2 images of the COCO file[\s\S]*x/a\.png, y/a\.tif"):
        read_points(path, {"a"})
    path.write_text(json.dumps({"images": [two[0], {**two[0], "id": 3}], "annotations": []}))
    assert [*read_points(path, {"a"})] == ["a"]  # one image, listed twice


def test_points_are_not_read_from_jpeg(tmp_path: Path) -> None:
    dots = np.zeros((32, 32), np.uint8)
    dots[10, 10] = dots[20, 25] = 255
    Image.fromarray(dots).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="cannot be read from a JPEG"):
        read_point_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_points_come_back_as_written(tmp_path: Path, suffix: str) -> None:
    points = {"a, b": np.array([[3, 4], [5, 6]]), 'c"': np.empty((0, 2), np.int64)}
    write_points(tmp_path / f"p{suffix}", points)
    again = read_points(tmp_path / f"p{suffix}", points)
    assert list(again) == list(points)
    for name, some in points.items():
        np.testing.assert_array_equal(again[name], some)
    with pytest.raises(DataError, match=r"\.csv or \.json"):
        write_points(tmp_path / "p.txt", points)


def test_point_images_come_back_as_written(tmp_path: Path) -> None:
    points = np.array([[0, 29], [23, 0]])
    write_point_image(tmp_path / "p.png", points, SIZE)
    again, size = read_point_image(tmp_path / "p.png")
    np.testing.assert_array_equal(again, points)
    assert size == SIZE
