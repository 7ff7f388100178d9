"""The doctor finds each fault, and no more than there is."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from image_files import write
from PIL import Image

from istd.data import DataWarning, Resplit, SyntheticDataset, load_names, open_dataset, pack
from istd.data.synthetic import make_scene
from istd.doctor import Report, diagnose
from istd.doctor._scenes import SceneIndex, check_scenes
from istd.errors import ConfigError, DataError

SPLITS = {"train": ["a", "b", "c"], "val": ["d"], "test": ["e", "f"]}
SIZE = (40, 50)


def lists(root: Path, splits: dict[str, list[str]]) -> None:
    for split, names in splits.items():
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clean")
    for i, name in enumerate("abcdef"):
        rng = np.random.default_rng(i)
        write(root / "images" / f"{name}.png", rng.integers(0, 99, SIZE, dtype=np.uint8))
        mask = np.zeros(SIZE, np.uint8)
        mask[10 : 13 + i, 20:23] = 255
        write(root / "masks" / f"{name}.png", mask)
    lists(root, SPLITS)
    return root


CLICKS = "name,y,x\n" + "".join(f"{name},11,21\n" for name in "abcdef")


def some_masks(root: Path, names: str) -> None:
    for path in (root / "masks").iterdir():
        if path.stem not in names:
            path.unlink()


def some_dots(root: Path, names: str) -> None:
    for name in names:
        dots = np.zeros(SIZE, np.uint8)
        dots[11, 21] = 255
        write(root / "points" / f"{name}.png", dots)


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "data"))


def look(root: Path, **options: object) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Check → (severity, names) of all that was found."""
    report = diagnose(root, **{"scenes": False, **options})  # type: ignore[arg-type]
    return {finding.check: (finding.severity, finding.names) for finding in report.findings}


def test_nothing_is_wrong_with_a_clean_dataset(root: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = diagnose(root, progress=lambda done, total: seen.append((done, total)))
    assert report == Report(root, "folder", {"train": 3, "val": 1, "test": 2}, ())
    assert seen[-1] == (6, 6)


def test_splits(root: Path) -> None:
    lists(root, {"train": ["a", "b", "b", "e"], "val": ["nowhere"], "test": ["e", "f"]})
    assert look(root) == {
        "listed-twice": ("error", ("b",)),
        "split-overlap": ("error", ("e",)),
        "missing-image": ("error", ("nowhere",)),
        "unlisted-image": ("warning", ("c", "d")),
    }
    lists(root, {"train": ["a", "b", "c", "d", "e", "f"], "val": [], "test": []})
    found = diagnose(root, scenes=False).findings
    assert [(one.severity, one.message.split(":")[0]) for one in found] == [
        ("warning", "the test split is empty"),
        ("info", "the val split is empty"),
    ]


def test_unreadable_files(root: Path) -> None:
    (root / "images" / "a.png").write_bytes(b"no image")
    (root / "masks" / "b.png").write_bytes((root / "masks" / "b.png").read_bytes()[:-20])
    write(root / "masks" / "c.png", np.arange(2000, dtype=np.uint16).astype(np.uint8).reshape(SIZE))
    (root / "masks" / "e.png").unlink()
    (root / "masks" / "d.png").unlink()
    write(root / "masks" / "stray.png", np.zeros(SIZE, np.uint8))
    assert look(root) == {
        "unreadable-image": ("error", ("a",)),
        "unusable-mask": ("error", ("b", "c")),
        "unlabelled": ("error", ("d", "e")),
        "stray-mask": ("warning", ("stray.png",)),
        "no-points": ("error", ()),
    }


def test_masks(root: Path) -> None:
    mask = np.zeros((80, 100), np.uint8)
    mask[30:34, 40:44] = 1
    write(root / "masks" / "a.png", mask)
    write(root / "masks" / "b.png", np.full(SIZE, 0, np.uint8))
    inverted = np.full(SIZE, 255, np.uint8)
    inverted[3, 3] = 0
    write(root / "masks" / "c.png", inverted)
    write(root / "masks" / "e.png", np.zeros((50, 40), np.uint8))
    report = diagnose(root, scenes=False)
    found = {(one.severity, one.check): one for one in report.findings}
    assert set(found) == {
        ("error", "mask-size"),
        ("error", "large-mask"),
        ("warning", "mask-size"),
        ("info", "empty-mask"),
    }
    assert found["warning", "mask-size"].details == ("image 40 × 50, mask 80 × 100",)
    assert found["error", "mask-size"].names == ("e",)
    assert found["error", "large-mask"].names == ("c",)
    assert found["info", "empty-mask"].names == ("b",)
    assert [one.severity for one in report.findings] == ["error", "error", "warning", "info"]
    assert (report.count("error"), report.count("warning")) == (2, 1)


def test_soft_masks_can_be_cut(root: Path) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[10:13, 10:13] = 255
    mask[9, 10:13] = 100
    write(root / "masks" / "a.png", mask)
    assert look(root) == {"unusable-mask": ("error", ("a",))}
    assert look(root, mask_threshold=0.5) == {}


def test_duplicates_by_content(root: Path) -> None:
    for name, other in (("a", "b"), ("c", "e")):
        gray = np.asarray(Image.open(root / "images" / f"{name}.png"))
        (root / "images" / f"{other}.png").unlink()
        write(root / "images" / f"{other}.bmp", np.repeat(gray[..., None], 3, 2))
    found = {(one.severity, one.check): one for one in diagnose(root, scenes=False).findings}
    assert found["error", "duplicate"].details == ("c (train) = e (test)",)
    assert found["warning", "duplicate"].details == ("a (train) = b (train)",)
    assert found["info", "channels"].message.startswith("channels: 4 L, 2 RGB")


def test_bit_depth_channels_and_flat_images(root: Path) -> None:
    write(root / "images" / "a.png", np.full(SIZE, 9, np.uint8))
    deep = np.random.default_rng(0).integers(0, 4000, SIZE, dtype=np.uint16)
    write(root / "images" / "b.png", deep)
    write(root / "images" / "c.png", (deep // 20).astype(np.uint16))
    colour = np.random.default_rng(1).integers(0, 255, (*SIZE, 4), dtype=np.uint8)
    write(root / "images" / "d.png", colour)
    report = diagnose(root, scenes=False)
    assert [(one.severity, one.check, one.names) for one in report.findings] == [
        ("warning", "constant-image", ("a",)),
        ("warning", "bit-depth", ("b", "c")),
        ("warning", "bit-depth", ("c",)),
        ("warning", "transparency", ("d",)),
        ("info", "channels", ()),
    ]
    assert "2 have 8" not in report.findings[1].message
    assert "4 have 8" in report.findings[1].message


def test_points_against_masks(root: Path) -> None:
    lines = [
        "name,y,x",
        "a,11,21",
        "b,11,23",
        "c,11,25",
        "d,11,21",
        "d,12,22",
        "e,60,21",
        "f,11,21",
        "f,30,5",
    ]
    (root / "points.csv").write_text("\n".join(lines) + "\n")
    report = diagnose(root, scenes=False)
    found = {one.check: (one.severity, one.names, one.details) for one in report.findings}
    assert found == {
        "point-outside": ("error", ("e",), ("y 60, x 21",)),
        "point-off-target": ("warning", ("c", "f"), ("y 11, x 25", "y 30, x 5")),
        "target-without-point": ("warning", ("c", "e"), ("y 10, x 20", "y 10, x 20")),
        "several-points": ("warning", ("d",), ("y 10, x 20",)),
    }


def test_point_files_and_layouts_that_cannot_be_used(root: Path, tmp_path: Path) -> None:
    (root / "points.csv").write_text("name,y\n")
    (finding,) = diagnose(root).findings
    assert (finding.severity, finding.check) == ("error", "layout")
    assert "lacks a column" in finding.message
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="none of the known layouts"):
        diagnose(tmp_path / "empty")
    with pytest.raises(DataError, match="no such folder"):
        diagnose(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="mask_threshold"):
        diagnose(root, mask_threshold=2)


def test_point_images(root: Path) -> None:
    shutil.rmtree(root / "masks")
    for name in "abcdef":
        dots = np.zeros(SIZE, np.uint8)
        dots[5, 5] = 255
        write(root / "points" / f"{name}.png", dots)
    assert look(root) == {}
    write(root / "points" / "a.png", np.full(SIZE, 255, np.uint8))
    assert look(root) == {"unusable-points": ("error", ("a",))}


@pytest.mark.parametrize("clicks", ["file", "dots", "none"])
@pytest.mark.parametrize("masks", ["abcdef", "ef", "abcd", ""])
def test_what_it_passes_can_be_packed(root: Path, tmp_path: Path, clicks: str, masks: str) -> None:
    """Points to train on and masks to test on are enough; what reading refuses is an error here."""
    some_masks(root, masks)
    if clicks == "file":
        (root / "points.csv").write_text(CLICKS)
    elif clicks == "dots":
        some_dots(root, "abcd")
    found = look(root)
    unlabelled = tuple(name for name in "abcdef" if name not in masks and not _clicked(clicks, name))
    assert found.get("unlabelled", ("error", ()))[1] == unlabelled
    if unlabelled:
        with pytest.raises(DataError, match=f"{unlabelled[0]} has neither points nor a mask"):
            pack(open_dataset(root), tmp_path / "p.h5")
        return
    assert {check for check, (severity, _) in found.items() if severity == "error"} <= {"missing-mask"}
    assert ("missing-mask" in found) == (not set("ef") <= set(masks))
    packed = pack(open_dataset(root), tmp_path / "p.h5")
    for name in packed.names:
        assert (packed.read(name).mask is None) == (name not in masks)
        assert packed.read(name).points[0].tolist()[1] == 21


def test_images_that_nobody_has_clicked(root: Path, tmp_path: Path) -> None:
    """Not those of which a mask says that there is no target, or that are measured by their mask."""
    some_masks(root, "cdef")
    write(root / "masks" / "c.png", np.zeros(SIZE, np.uint8))
    (root / "points.csv").write_text("name,y,x\na,,\n")
    found = look(root)
    assert found["unannotated"] == ("warning", ("b",))
    (root / "masks" / "d.png").unlink()
    assert look(root)["unannotated"] == ("warning", ("b", "d"))
    (root / "points.csv").write_text(CLICKS)
    assert "unannotated" not in look(root)


def test_training_is_told_which_images_nobody_has_clicked(root: Path, tmp_path: Path) -> None:
    """From the folder and from its packed copy, also in other splits."""
    shutil.rmtree(root / "masks")
    (root / "points.csv").write_text("name,y,x\na,11,21\nb,,\n")
    data = open_dataset(root)
    packed = pack(data, tmp_path / "p.h5")
    again = Resplit(packed, {"train": "ac", "val": "b"})
    for dataset, names in ((data, "abc"), (packed, "abc"), (again, "ac")):
        with pytest.warns(DataWarning, match=rf"1 of {len(names)} images are not in the point file.*: c;"):
            load_names(dataset, names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_names(data, "abef").num_points == 1
    assert look(tmp_path / "p.h5")["unannotated"] == ("warning", ("c", "d"))
    before = data.content_key()
    (root / "points.csv").write_text("name,y,x\na,11,21\nb,,\nc,,\n")
    assert open_dataset(root).content_key() != before


def _clicked(clicks: str, name: str) -> bool:
    return clicks == "file" or (clicks == "dots" and name in "abcd")


def test_packed_files_are_looked_at_too(root: Path, tmp_path: Path) -> None:
    mask = np.zeros((80, 100), np.uint8)
    mask[30:34, 40:44] = 1
    write(root / "masks" / "a.png", mask)
    with pytest.warns(UserWarning, match="resized"):
        pack(open_dataset(root), tmp_path / "p.h5")
    assert look(tmp_path / "p.h5") == {"mended": ("warning", ("a",))}


def test_a_split_by_names_is_said(root: Path) -> None:
    for split in SPLITS:
        (root / f"{split}.txt").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert look(root)["layout"] == ("info", ())


def scenes(count: int, size: tuple[int, int] = (120, 160)) -> list[np.ndarray]:
    return [make_scene(seed, size).image for seed in range(count)]


def test_cuts_of_one_scene_are_found_and_others_are_not() -> None:
    index = SceneIndex(20)
    for i, image in enumerate(scenes(16)):
        index.add(f"other{i}", ("train", "val", "test")[i % 3], image)
    assert index.shared() == []
    blobs = np.random.default_rng(5).random((48, 60)).astype(np.float32)
    big = np.asarray(
        Image.fromarray((blobs * 200).astype(np.uint8)).resize((300, 240), Image.Resampling.BICUBIC)
    )
    index.add("left", "train", np.ascontiguousarray(big[:200, :200]))
    index.add("right", "test", np.ascontiguousarray(big[30:, 60:]))
    smaller = Image.fromarray(big[:180, :180]).resize((150, 150), Image.Resampling.LANCZOS).rotate(90)
    index.add("turned", "val", np.asarray(smaller))
    found = index.shared()
    assert {(one.first, one.second) for one in found} >= {("left", "right"), ("left", "turned")}
    assert all("other" not in one.first + one.second for one in found)
    by_pair = {(one.first, one.second): one for one in found}
    assert by_pair["left", "right"].scale == pytest.approx(1, abs=0.03)
    assert by_pair["left", "turned"].scale == pytest.approx(150 / 180, abs=0.03)
    assert index.shared() == found
    split_of = {"left": "train", "right": "test", "turned": "val"}
    (finding,) = check_scenes(index, split_of, {name: name for name in split_of})
    assert finding.severity == "warning"
    assert set(finding.names) >= {"left"}
    assert check_scenes(index, split_of, dict.fromkeys(split_of, "the same pixels")) == []


def test_a_synthetic_set_is_clean() -> None:
    """Generated scenes share nothing and have a target at every point."""
    from istd.doctor.diagnose import _diagnose_dataset

    report = _diagnose_dataset(SyntheticDataset(12, 6, 6, (64, 64), seed=1), True, None)
    assert {one.check for one in report.findings} <= {"empty-mask"}


def test_sirst_v1(sirst_root: Path) -> None:
    """One mask of another size, mixed channels, and nothing else in files, splits, masks and points."""
    found = diagnose(sirst_root, scenes=False).findings
    assert [(one.severity, one.check, one.names) for one in found] == [
        ("warning", "mask-size", ("Misc_111",)),
        ("info", "channels", ()),
    ]
    assert found[0].details == ("image 220 × 325, mask 400 × 592",)
    assert "379 RGB, 28 L, 15 RGBA, 5 P" in found[1].message


def test_sirst_v1_has_scenes_that_its_split_shares(sirst_root: Path) -> None:
    """Overlapping cuts of one image, the target included, on both sides of the official split."""
    data = open_dataset(sirst_root)
    split_of = {name: split for split, names in data.splits.items() for name in names}
    pairs = [(9, 139), (27, 31), (201, 204), (34, 102), (96, 278), (114, 423), (95, 279)]
    numbers = [*range(206, 212), *(number for pair in pairs for number in pair), *range(380, 388)]
    index = SceneIndex(len(numbers))
    for number in numbers:
        name = f"Misc_{number}"
        index.add(name, split_of[name], data.read(name).image)
    found = {
        frozenset(int(name.removeprefix("Misc_")) for name in (one.first, one.second))
        for one in index.shared()
    }
    assert found == {frozenset(pair) for pair in pairs}
