"""The point file, the session that changes it, and how images are shown."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from istd.annotate import AnnotationSession, Display, PointFile, StaleRevisionError, to_png
from istd.annotate import point_file as point_file_module
from istd.annotate.display import mask_png, parse_display, window
from istd.data import PackedDataset, SyntheticDataset, open_dataset, pack, write_synthetic
from istd.data.synthetic import TREES
from istd.errors import ConfigError, DataError, WriteError

pytestmark = pytest.mark.filterwarnings("ignore::istd.data.DataWarning")
SIZE = (20, 30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "mine"
    (root / "images").mkdir(parents=True)
    for i in range(12):
        cv2.imwrite(str(root / "images" / f"f{i}.png"), np.full(SIZE, 9 * i, np.uint8))
    return root


def start(root: Path, **options: object) -> AnnotationSession:
    return AnnotationSession(open_dataset(root), **options)  # type: ignore[arg-type]


def reread(root: Path, name: str) -> list[list[int]]:
    return open_dataset(root).read(name).points.tolist()


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_what_is_saved_can_be_trained_on(folder: Path, suffix: str) -> None:
    session = start(folder, points=folder / f"points.{suffix}")
    session.save("f1", [(3, 4), (19, 29)], 0)
    session.save("f2", [], 0)
    assert reread(folder, "f1") == [[3, 4], [19, 29]]
    assert reread(folder, "f2") == []
    again = start(folder)
    assert again.file.annotations == {"f1": ((3, 4), (19, 29)), "f2": ()}
    assert session.summary() == {
        "images": 12,
        "annotated": 2,
        "without_target": 1,
        "unreadable": 0,
        "points": 2,
    }
    again.save("f1", None, 0)
    assert start(folder).file.annotations == {"f2": ()}
    assert [path.name for path in folder.iterdir() if path.is_file()] == [f"points.{suffix}"]
    assert session.read_by_training
    assert not start(folder, points=folder / "other.csv").read_by_training


@pytest.mark.parametrize("layout", sorted(TREES))
def test_every_layout_trains_on_what_is_saved(tmp_path: Path, layout: str) -> None:
    write_synthetic(SyntheticDataset(1, 0, 1, (32, 32)), tmp_path / "set", layout=layout)
    session = start(tmp_path / "set")
    session.save("train_00000", [(3, 4), (5, 6)], 0)
    assert session.file.path == tmp_path / "set" / "points.csv"
    assert session.read_by_training
    assert open_dataset(tmp_path / "set").layout == layout
    assert reread(tmp_path / "set", "train_00000") == [[3, 4], [5, 6]]


def test_other_rows_columns_and_fractions_survive(folder: Path) -> None:
    text = "x,y,name,who\n4.25,3.5,f1.png,ann\n7,8,f2,bob\n4,4,f1,dup\n9,9,f1,ann\n1,1,f3,\n"
    path = folder / "points.csv"
    path.write_text(text)
    session = start(folder)
    assert session.file.annotations["f1"] == ((4, 4), (9, 9))
    session.save("f1", [(4, 4), (5, 6)], 0)  # (9, 9) removed, (5, 6) added
    assert path.read_text() == (
        "x,y,name,who\n4.25,3.5,f1.png,ann\n4,4,f1,dup\n6,5,f1.png,\n7,8,f2,bob\n1,1,f3,\n"
    )
    session.save("f3", [], 0)
    assert path.read_text().endswith(",,f3,\n")
    session.save("f3", [(1, 1)], 2)
    assert path.read_text().endswith("1,1,f3,\n")


def test_json_keeps_its_spelling(folder: Path) -> None:
    path = folder / "points.json"
    path.write_text(json.dumps({"f1.png": [[3.5, 4.25], [9, 9]], "f2": [], "f3": [[1, 1]]}))
    start(folder).save("f1", [(4, 4), (5, 6)], 0)
    assert json.loads(path.read_text()) == {"f1.png": [[3.5, 4.25], [5, 6]], "f2": [], "f3": [[1, 1]]}


def test_names_that_look_like_files(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png.png"), np.zeros(SIZE, np.uint8))
    (tmp_path / "train.txt").write_text("a.png.png\n")
    session = AnnotationSession(open_dataset(tmp_path))
    session.save("a.png", [(1, 2)], 0)
    assert reread(tmp_path, "a.png") == [[1, 2]]


def test_names_that_no_point_file_can_hold(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a:b.png"), np.zeros(SIZE, np.uint8))
    with pytest.raises(DataError, match="a:b"):
        AnnotationSession(open_dataset(tmp_path))
    (tmp_path / "a:b.png").rename(tmp_path / " a.png")
    with pytest.raises(DataError, match="begins or ends with a space"):
        AnnotationSession(open_dataset(tmp_path))


def test_a_stale_change_is_refused(folder: Path) -> None:
    session = start(folder)
    assert session.save("f1", [(1, 1)], 0)["image"]["revision"] == 1
    session.save("f2", [(2, 2)], 0)  # another image does not make f1 stale
    with pytest.raises(StaleRevisionError, match="changed elsewhere"):
        session.save("f1", [(5, 5)], 0)
    assert reread(folder, "f1") == [[1, 1]]
    session.save("f1", [(5, 5)], 1)
    assert reread(folder, "f1") == [[5, 5]]


def test_what_an_editor_wrote_meanwhile_is_kept(folder: Path) -> None:
    session = start(folder)
    session.save("f1", [(1, 1)], 0)
    path = folder / "points.csv"
    path.write_text(path.read_text() + "f2,7,8\n")
    with pytest.raises(StaleRevisionError):
        session.save("f2", [(0, 0)], 0)
    session.save("f1", [(1, 1), (2, 2)], 1)
    assert path.read_text() == "name,y,x\nf1,1,1\nf1,2,2\nf2,7,8\n"
    path.write_text("name,y,x\nf1,what,8\n")
    with pytest.raises(DataError, match="is not a point"):
        session.save("f1", [(1, 1)], 3)
    assert path.read_text() == "name,y,x\nf1,what,8\n"
    path.unlink()
    session.save("f3", [(3, 3)], 0)
    assert path.read_text() == "name,y,x\nf1,1,1\nf1,2,2\nf2,7,8\nf3,3,3\n"


def test_a_failed_write_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = start(folder)
    session.save("f1", [(1, 1)], 0)
    before = (folder / "points.csv").read_bytes()

    def full(path: Path, text: str) -> None:
        raise WriteError("the file could not be written", where=path)

    with monkeypatch.context() as patch:
        patch.setattr(point_file_module, "write_text", full)
        with pytest.raises(WriteError):
            session.save("f1", [(2, 2)], 1)
    assert (folder / "points.csv").read_bytes() == before
    assert session.state()["images"][1]["points"] == ((1, 1),)
    session.save("f1", [(2, 2)], 1)
    assert reread(folder, "f1") == [[2, 2]]


def test_points_outside(folder: Path) -> None:
    (folder / "points.csv").write_text("name,y,x\nf1,99,5\n")
    session = start(folder)
    with pytest.raises(DataError, match="outside the image"):
        session.save("f1", [(20, 0)], 0)
    session.save("f1", [(99, 5), (1, 1)], 0)  # one that was there may stay until somebody removes it
    session.save("f1", [(1, 1)], 1)
    assert reread(folder, "f1") == [[1, 1]]


def test_changes_at_once_are_all_kept(folder: Path) -> None:
    session = start(folder)
    many = [threading.Thread(target=session.save, args=(f"f{i}", [(i, i), (i, i + 1)], 0)) for i in range(12)]
    for one in many:
        one.start()
    for one in many:
        one.join()
    assert start(folder).file.annotations == {f"f{i}": ((i, i), (i, i + 1)) for i in range(12)}
    assert session.state()["revision"] == 12
    session.close()
    with pytest.raises(WriteError, match="ended"):
        session.save("f1", [], 2)


def test_order_splits_and_what_cannot_be_annotated(folder: Path, tmp_path: Path) -> None:
    assert start(folder).names == tuple(f"f{i}" for i in range(12))
    (folder / "train.txt").write_text("f10\nf9\n")
    (folder / "points.csv").write_text("name,y,x\nf3,1,1\n")
    session = start(folder, split="train")
    assert session.names == ("f9", "f10")
    session.save("f9", [(2, 2)], 0)
    assert (folder / "points.csv").read_text() == "name,y,x\nf3,1,1\nf9,2,2\n"
    with pytest.raises(DataError, match="no such image"):
        session.save("f3", [], 0)
    with pytest.raises(DataError, match="no such image"):
        session.values("../points")
    with pytest.raises(DataError, match="empty"):
        start(folder, split="test")
    with pytest.raises(ConfigError, match="no such split"):
        start(folder, split="mine")
    with pytest.raises(ConfigError, match=r"\.csv or \.json"):
        start(folder, points=folder / "points.txt")
    packed = tmp_path / "packed.h5"
    pack(SyntheticDataset(1, 1, 1, size=(32, 32)), packed)
    with pytest.raises(ConfigError, match="not files of a folder"):
        AnnotationSession(PackedDataset(packed))


def test_coco_and_damaged_point_files_are_left_alone(folder: Path) -> None:
    path = folder / "points.json"
    path.write_text('{"images": [], "annotations": []}')
    with pytest.raises(ConfigError, match="COCO"):
        start(folder)
    (folder / "other.csv").write_text("name,y\n")
    with pytest.raises(DataError, match="lacks a column"):
        PointFile(folder / "other.csv", open_dataset(folder).images)  # type: ignore[attr-defined]


def test_unreadable_images_and_links(folder: Path, tmp_path: Path) -> None:
    (folder / "images" / "f1.png").write_bytes(b"no image")
    cv2.imwrite(str(tmp_path / "secret.png"), np.zeros(SIZE, np.uint8))
    (folder / "images" / "f2.png").unlink()
    (folder / "images" / "f2.png").symlink_to(tmp_path / "secret.png")
    session = start(folder)
    for name, message in (("f1", "cannot be read"), ("f2", "leads out")):
        with pytest.raises(DataError, match=message):
            session.values(name)
        with pytest.raises(DataError, match=message):
            session.save(name, [(1, 1)], 0)
    errors = [one["error"] for one in session.state()["images"]]
    assert ["cannot be read" in (one or "") for one in errors] == [i == 1 for i in range(12)]
    assert session.summary()["unreadable"] == 2
    assert not (folder / "points.csv").exists()
    cv2.imwrite(str(folder / "images" / "f1.png"), np.zeros(SIZE, np.uint8))
    session.values("f1")
    assert session.state()["images"][1]["error"] is None


def test_a_point_file_that_links_out_is_never_written(folder: Path, tmp_path: Path) -> None:
    data = open_dataset(folder)
    (folder / "points.csv").symlink_to(tmp_path / "made.csv")  # leads to nothing yet
    with pytest.raises(DataError, match="leads out"):
        AnnotationSession(data)
    with pytest.raises(DataError, match="leads out"):
        open_dataset(folder)
    assert not (tmp_path / "made.csv").exists()


def test_masks_are_shown_beside(folder: Path) -> None:
    (folder / "masks").mkdir()
    for i in range(12):
        mask = np.zeros(SIZE, np.uint8)
        mask[4:7, 10:13] = 255
        cv2.imwrite(str(folder / "masks" / f"f{i}.png"), mask)
    session = start(folder)
    session.save("f1", [(0, 0)], 0)
    mask, points = session.reference("f1")
    assert points == [[5, 11]]
    assert mask is not None
    decoded = cv2.imdecode(np.frombuffer(mask_png(mask), np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(decoded[..., 3] > 0, mask)


def decode(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def test_sixteen_bits_are_stretched_by_percentiles() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(4000, 4100, (64, 64)).astype(np.uint16)
    values[0, 0], values[1, 1], values[2, 2] = 65535, 0, 4300
    shown = decode(to_png(values))
    assert shown.dtype == np.uint8
    assert shown.shape == values.shape
    assert shown.min() == 0
    assert shown[0, 0] == shown[2, 2] == 255
    assert np.ptp(shown[3:].astype(int)) > 80  # the stuck pixel does not decide the contrast
    full = decode(to_png(values, Display(low=0, high=100)))
    assert np.ptp(full[3:].astype(int)) <= 1
    assert window(values, 0, 100) == (0, 65535)


def test_windows_are_percentiles() -> None:
    values = np.arange(200, dtype=np.uint8).reshape(10, 20)
    assert window(values, 0, 100) == (0, 199)
    assert window(values, 10, 90) == (19, 179)
    inverted = decode(to_png(values, Display(low=0, high=100, invert=True)))
    plain = decode(to_png(values, Display(low=0, high=100)))
    assert np.array_equal(plain, np.rint(values * (255 / 199)).astype(np.uint8))
    assert np.abs(255 - plain.astype(int) - inverted).max() <= 1
    bright = decode(to_png(values, Display(low=0, high=100, gamma=2)))
    assert np.array_equal(bright, np.rint(255 * np.sqrt(values / 199)).astype(np.uint8))
    assert decode(to_png(np.full((3, 3), 77, np.uint8))).max() in (0, 255)


@pytest.mark.parametrize(
    "query", [{"low": "x"}, {"low": "nan"}, {"low": "60", "high": "50"}, {"gamma": "0"}, {"high": "101"}]
)
def test_displays_that_make_no_sense(query: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        parse_display(query)
