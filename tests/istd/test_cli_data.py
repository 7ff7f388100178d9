"""doctor, synth, points and pack as a person uses them, on tiny data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from istd.data import (
    SyntheticDataset,
    centroid_points,
    coarse_points,
    open_dataset,
    pack,
    point_rng,
    read_point_image,
    read_points,
    write_synthetic,
)
from istd.data._imagefile import read_gray_values
from istd.data.synthetic import TREES
from istd.doctor import diagnose
from istd.errors import ConfigError

Command = Callable[..., tuple[int, str]]
Works = Callable[..., str]


@pytest.fixture
def works(istd: Command) -> Works:
    """Run a command that must end well; what it printed."""

    def run(*arguments: object) -> str:
        code, text = istd(*arguments)
        assert code == 0, text
        return text

    return run


@pytest.fixture
def refused(istd: Command) -> Works:
    """Run a command that must end with an error that the user can mend; the message."""

    def run(*arguments: object) -> str:
        code, text = istd(*arguments)
        assert code == 2, text
        assert "error " in text, text
        return text

    return run


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy") / "set"
    write_synthetic(SyntheticDataset(4, 2, 2, (48, 64), seed=5), out)
    return out


def test_synth_writes_what_the_generator_makes(works: Works, tmp_path: Path) -> None:
    made = SyntheticDataset(4, 2, 2, (48, 64), seed=5)
    toy = tmp_path / "toy"
    size = ("--height", 48, "--width", 64)
    text = works("synth", toy, "--train", 4, "--val", 2, "--test", 2, *size, "--seed", 5)
    assert "8 images (4 train, 2 val, 2 test), 48 × 64" in text
    data = open_dataset(toy)
    assert data.splits == made.splits
    for name in made.names:
        record, scene = data.read(name), made.scene(name)
        np.testing.assert_array_equal(record.image, scene.image)
        np.testing.assert_array_equal(record.mask, scene.mask)
        np.testing.assert_array_equal(record.points, scene.points)
    assert json.loads((toy / "synthetic.json").read_text())["seed"] == 5


@pytest.mark.parametrize("layout", sorted(TREES))
def test_every_layout_can_be_written_and_is_recognised(tmp_path: Path, layout: str) -> None:
    made = SyntheticDataset(2, 1, 1, (40, 40), seed=2)
    write_synthetic(made, tmp_path / "set", layout=layout)
    data = open_dataset(tmp_path / "set")
    assert data.layout == layout
    assert data.splits == made.splits
    for name in made.names:
        np.testing.assert_array_equal(data.read(name).points, made.scene(name).points)
    assert diagnose(tmp_path / "set").count("error") == diagnose(tmp_path / "set").count("warning") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_synth_16_bit_with_coarse_points(works: Works, tmp_path: Path) -> None:
    options = ("--train", 3, "--val", 0, "--test", 1, "--height", 40, "--width", 40)
    for name in ("one", "two"):
        works("synth", tmp_path / name, *options, "--bits", 16, "--points", "coarse", "--layout", "dnanet")
    made = SyntheticDataset(3, 0, 1, (40, 40))
    data, again = open_dataset(tmp_path / "one"), open_dataset(tmp_path / "two")
    for name in made.names:
        scene = made.scene(name)
        raw = read_gray_values(tmp_path / "one" / "images" / f"{name}.png")
        assert raw.dtype == np.uint16
        assert np.abs(np.clip(raw / 64, 0, 255) - scene.image).max() <= 0.51
        points = data.read(name).points
        assert scene.mask[tuple(points.T)].all()
        assert len(points) == len(scene.points)
        np.testing.assert_array_equal(points, again.read(name).points)


def test_synth_refuses(refused: Works, toy: Path, tmp_path: Path) -> None:
    assert "something is there already" in refused("synth", toy)
    assert "sirst-v1" in refused("synth", tmp_path / "x", "--layout", "magic")
    assert "8 | 16" in refused("synth", tmp_path / "x", "--bits", 12)
    assert "no such points" in refused("synth", tmp_path / "x", "--layout", "sirst3", "--points", "coarse")
    assert "at least one image" in refused("synth", tmp_path / "x", "--train", 0, "--val", 0, "--test", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_synth_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_synthetic(SyntheticDataset(2, 0, 0, (32, 32)), tmp_path / "set", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_points_from_masks(works: Works, toy: Path, tmp_path: Path) -> None:
    data = open_dataset(toy)
    for kind in ("centroid", "coarse"):
        out = tmp_path / f"{kind}.csv"
        works("points", toy, "--out", out, "--kind", kind, "--seed", 3)
        found = read_points(out, data.names)
        assert tuple(found) == data.names
        for name in data.names:
            mask = data.read(name).mask
            assert mask is not None
            expected = (
                centroid_points(mask) if kind == "centroid" else coarse_points(mask, point_rng(3, name))
            )
            np.testing.assert_array_equal(found[name], expected)


def test_points_from_format_to_format(works: Works, toy: Path, tmp_path: Path) -> None:
    data = open_dataset(toy)
    works("points", toy, "--out", tmp_path / "dots", "--kind", "coarse")
    works("points", toy, "--from", tmp_path / "dots", "--out", tmp_path / "a.json")
    works("points", toy, "--from", tmp_path / "a.json", "--out", tmp_path / "b.csv")
    coco = {
        "images": [{"id": i, "file_name": f"{name}.png"} for i, name in enumerate(data.names)],
        "annotations": [
            {"image_id": i, "bbox": [int(x) - 1, int(y) - 2, 3, 5]}
            for i, name in enumerate(data.names)
            for y, x in read_points(tmp_path / "b.csv", data.names)[name]
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    works("points", toy, "--from", tmp_path / "coco.json", "--out", tmp_path / "c.csv")
    assert (tmp_path / "b.csv").read_text() == (tmp_path / "c.csv").read_text()
    # Dots in images of another size count in that size.
    for path in (tmp_path / "dots").iterdir():
        image = np.kron(read_gray_values(path), np.ones((2, 2), np.uint8))
        cv2.imwrite(str(path), image)
    said = works("points", toy, "--from", tmp_path / "dots", "--out", tmp_path / "e.csv")
    assert "the points were scaled from" in " ".join(said.split())
    assert (tmp_path / "e.csv").read_text() == (tmp_path / "b.csv").read_text()
    works("points", toy, "--kind", "given", "--out", tmp_path / "d.csv")
    assert (tmp_path / "d.csv").read_text() == (toy / "points.csv").read_text()


def test_points_leave_out_what_nobody_has_looked_at(works: Works, toy: Path, tmp_path: Path) -> None:
    """An image that the source does not name is not one without a target."""
    data = tmp_path / "set"
    shutil.copytree(toy, data)
    names = open_dataset(data).splits["train"]
    (tmp_path / "some.csv").write_text(f"name,y,x\n{names[0]},3,4\n{names[1]},,\n")
    said = works("points", data, "--from", tmp_path / "some.csv", "--out", data / "points.csv", "--force")
    assert "1 points in 2 images (1 without a target)" in said
    assert "6 images are not named there" in said
    assert (data / "points.csv").read_text() == f"name,y,x\n{names[0]},3,4\n{names[1]},,\n"
    assert open_dataset(data).unannotated == {*names[2:]}
    works("points", data, "--kind", "given", "--out", tmp_path / "given.json")
    given = json.loads((tmp_path / "given.json").read_text())
    assert not {*names[2:]} & {*given}
    works("points", data, "--from", tmp_path / "some.csv", "--out", tmp_path / "dots")
    assert {path.stem for path in (tmp_path / "dots").iterdir()} == {*names[:2]}


@pytest.mark.filterwarnings("ignore::istd.data.DataWarning")
def test_points_refuses(refused: Works, toy: Path, tmp_path: Path) -> None:
    (tmp_path / "there.csv").touch()
    assert "--force" in refused("points", toy, "--out", tmp_path / "there.csv")
    assert ".csv or .json" in refused("points", toy, "--out", tmp_path / "p.txt")
    assert "no such file" in refused(
        "points", toy, "--out", tmp_path / "p.csv", "--from", tmp_path / "nowhere"
    )
    (tmp_path / "far.csv").write_text("name,y,x\ntrain_00000,3,64\n")
    message = refused("points", toy, "--out", tmp_path / "p.csv", "--from", tmp_path / "far.csv")
    assert "lies outside" in message
    assert "far.csv" in message
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((20, 20), np.uint8))
    assert "has no mask" in refused("points", tmp_path, "--out", tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


def test_a_folder_of_points_appears_whole_or_not_at_all(
    works: Works, refused: Works, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dots = tmp_path / "dots"
    (tmp_path / "far.csv").write_text("name,y,x\ntest_00001,3,64\n")  # of the last image
    message = refused("points", toy, "--from", tmp_path / "far.csv", "--out", dots)
    assert "test_00001 lies outside" in message
    with monkeypatch.context() as patch:
        written: list[Path] = []

        def full(path: Path, *_: object) -> None:
            if len(written) == 3:
                raise OSError("no space left")
            written.append(path)
            path.touch()

        patch.setattr("istd.data.write_point_image", full)
        assert "no space left" in refused("points", toy, "--out", dots)
    assert [path.name for path in tmp_path.iterdir()] == ["far.csv"]
    dots.mkdir()
    works("points", toy, "--out", dots)
    assert len(list(dots.iterdir())) == 8
    (dots / "mine.txt").touch()
    (dots / "val_00000.png").unlink()
    assert "--force" in refused("points", toy, "--out", dots)
    works("points", toy, "--out", dots, "--force", "--kind", "coarse")
    assert len(list(dots.iterdir())) == 9
    assert len(read_point_image(dots / "val_00000.png")[0]) == len(open_dataset(toy).read("val_00000").points)


def test_a_folder_that_needs_options_is_packed_for_training(
    istd: Command, works: Works, tmp_path: Path
) -> None:
    """Where training has no --layout and no --mask-threshold, the messages lead to `istd pack`."""
    root = tmp_path / "my set"
    write_synthetic(SyntheticDataset(2, 1, 1, (40, 40), seed=2), root, layout="sirst-v1")
    (root / "50_50").mkdir()
    for split in ("train", "test"):
        (root / "50_50" / f"{split}.txt").write_text((root / "idx_427" / f"{split}.txt").read_text())
    mask = root / "masks" / "train_00000_pixels0.png"
    soft = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
    soft[0] = 100
    cv2.imwrite(str(mask), soft)
    code, shown = istd("train", "--data", root, "--method", "pal", "--out", tmp_path / "run")
    assert code == 2
    assert f"`istd pack '{root}' --layout dnanet`" in shown
    code, shown = istd("doctor", root, "--layout", "sirst-v1")
    assert code == 1
    assert "--mask-threshold 0.5`" in shown
    shown = works("doctor", root, "--layout", "sirst-v1", "--mask-threshold", 0.5)
    command = f"istd pack '{root}' --layout sirst-v1 --mask-threshold 0.5 && istd train --data '{root}.h5'"
    assert command in shown
    works("pack", root, "--layout", "sirst-v1", "--mask-threshold", 0.5)
    assert len(open_dataset(tmp_path / "my set.h5")) == 4


def test_coarse_points_are_spread_around_the_middle() -> None:
    mask = np.zeros((60, 60), bool)
    mask[10:42, 20:36] = True
    points = np.concatenate([coarse_points(mask, np.random.default_rng(seed)) for seed in range(800)])
    assert np.abs(points.mean(0) - [25.5, 27.5]).max() < 0.5
    np.testing.assert_allclose(points.std(0), [4, 2], rtol=0.12)
    ring = np.zeros((60, 60), bool)
    ring[5:55, 5:55] = True
    ring[6:54, 6:54] = False
    (point,) = coarse_points(ring, np.random.default_rng(0))
    assert ring[tuple(point)]


def test_pack(works: Works, refused: Works, toy: Path, tmp_path: Path) -> None:
    works("pack", toy, "--out", tmp_path / "p.h5")
    packed, data = open_dataset(tmp_path / "p.h5"), open_dataset(toy)
    assert packed.split_hash() == data.split_hash()
    np.testing.assert_array_equal(packed.read("val_00001").image, data.read("val_00001").image)
    assert "--force" in refused("pack", toy, "--out", tmp_path / "p.h5")
    works("pack", toy, "--out", tmp_path / "p.h5", "--force")
    assert "no such folder" in refused("pack", tmp_path / "nowhere")


def test_ctrl_c_while_packing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "data.h5"
    target.write_bytes(b"the previous file")

    def stop(done: int, total: int) -> None:
        if done == 3:
            assert len(list(tmp_path.iterdir())) == 2, "it writes as it goes"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(SyntheticDataset(5, 0, 0, (32, 32)), target, progress=stop)
    assert target.read_bytes() == b"the previous file"
    assert list(tmp_path.iterdir()) == [target]


def test_doctor_shows_a_table_and_ends_with_a_code(
    istd: Command, works: Works, toy: Path, tmp_path: Path
) -> None:
    assert "nothing is wrong" in works("doctor", toy)
    made = SyntheticDataset(2, 1, 1, (40, 40), seed=2)
    write_synthetic(made, tmp_path / "set")
    (tmp_path / "set" / "test.txt").write_text("test_00000\nghost\n")
    code, shown = istd("doctor", tmp_path / "set", "--no-scenes")
    assert code == 1
    for text in ("missing-image", "ghost", "errors: 1, warnings: 0"):
        assert text in shown
    works("doctor", tmp_path / "set", "--fail-on", "never")
    (tmp_path / "set" / "test.txt").write_text("")
    assert istd("doctor", tmp_path / "set")[0] == 1
    works("doctor", tmp_path / "set", "--fail-on", "error")


def test_doctor_as_json(istd: Command, refused: Works, tmp_path: Path) -> None:
    write_synthetic(SyntheticDataset(2, 1, 1, (40, 40), seed=2), tmp_path / "set")
    for i in range(8):
        (tmp_path / "set" / "images" / f"extra{i}.png").write_bytes(b"")
    code, shown = istd("doctor", tmp_path / "set", "--json")
    assert code == 1
    written = json.loads(shown)
    assert written["layout"] == "folder"
    assert written["splits"] == {"train": 2, "val": 1, "test": 1}
    assert (written["errors"], written["warnings"]) == (0, 1)
    (finding,) = written["findings"]
    assert finding["check"] == "unlisted-image"
    assert finding["names"] == [f"extra{i}" for i in range(8)]
    short = istd("doctor", tmp_path / "set")[1]
    assert "… and 3 more" in short
    assert "extra7" not in short
    assert "extra7" in istd("doctor", tmp_path / "set", "--all")[1]
    assert "no such folder" in refused("doctor", tmp_path / "nowhere")


@pytest.mark.parametrize("command", ["doctor", "points", "synth", "pack"])
def test_help_has_examples(works: Works, command: str) -> None:
    shown = works(command, "--help")
    assert "Examples" in shown
    assert f"istd {command} data/" in shown


def test_unknown_bits_in_the_library(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="8 or 16 bits"):
        write_synthetic(SyntheticDataset(1, 0, 0, (32, 32)), tmp_path / "x", bits=9)  # type: ignore[arg-type]
