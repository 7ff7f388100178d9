"""Prediction on files: what is found, what is written, and what survives a broken image or a stop."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from istd.engine import Detector, PredictOptions, Tiling, TrainConfig, find_images, predict_images
from istd.engine.detector import make_header
from istd.engine.image_files import name_answers
from istd.errors import ConfigError, DataError, ModelError
from istd.models import create_model
from istd.targets import draw_targets, list_targets

deployed = Detector.deployed


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    config = TrainConfig(data="x", method="full")
    return Detector(create_model("mlclnet"), None, make_header(config, None, 0.4, 0.1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of several sizes and depths, one of them broken."""
    root = tmp_path / "images"
    (root / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, shape in (("a", (40, 52)), ("b", (33, 30)), ("more/a", (40, 52))):
        cv2.imwrite(str(root / f"{name}.png"), rng.integers(0, 255, shape).astype(np.uint8))
    cv2.imwrite(str(root / "deep.tif"), rng.integers(0, 4000, (31, 45)).astype(np.uint16))
    (root / "notes.txt").write_text("not an image")
    return root


def read_tables(out: Path) -> tuple[list[dict[str, str]], Any, Any]:
    with (out / "targets.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return (
        rows,
        json.loads((out / "targets.json").read_text()),
        json.loads((out / "targets.coco.json").read_text()),
    )


def decode(annotation: dict[str, Any]) -> np.ndarray:
    """COCO's uncompressed run lengths, as its definition says."""
    height, width = annotation["segmentation"]["size"]
    flat = np.concatenate([np.full(n, i % 2) for i, n in enumerate(annotation["segmentation"]["counts"])])
    return flat.reshape(width, height).T > 0


def test_all_tables_and_pictures_say_the_same(detector: Detector, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = PredictOptions(threshold=0.45, pictures=("masks", "overlays", "probabilities"))
    paths = find_images([folder], recursive=True)
    done = predict_images(detector, paths, out, options)
    assert [answer.name for answer in done.answers] == ["a", "b", "deep", "a-2"]
    assert done.num_targets > 4
    rows, objects, coco = read_tables(out)
    assert (
        len(rows) == len(coco["annotations"]) == sum(len(o["targets"]) for o in objects) == done.num_targets
    )
    for number, (answer, image) in enumerate(zip(done.answers, coco["images"], strict=True), 1):
        assert image == {
            "id": number,
            "file_name": answer.file,
            "height": answer.height,
            "width": answer.width,
        }
        mask = cv2.imread(str(out / "masks" / f"{answer.name}.png"), cv2.IMREAD_UNCHANGED) > 0
        levels = cv2.imread(str(out / "probabilities" / f"{answer.name}.png"), cv2.IMREAD_UNCHANGED)
        assert levels.dtype == np.uint16
        np.testing.assert_array_equal(mask, levels > 0.45 * 65535)
        union = np.zeros_like(mask)
        mine = [a for a in coco["annotations"] if a["image_id"] == number]
        for annotation, target in zip(mine, answer.targets, strict=True):
            part = decode(annotation)
            assert part.sum() == annotation["area"] == target.area
            ys, xs = np.nonzero(part)
            assert (xs.mean(), ys.mean()) == pytest.approx((target.x, target.y))
            left, top, width, height = annotation["bbox"]
            assert (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1) == (left, top, width, height)
            assert levels[part].max() == pytest.approx(target.score * 65535, abs=1)
            union |= part
        np.testing.assert_array_equal(union, mask)
        assert (out / "overlays" / f"{answer.name}.png").exists()
    assert {row["image"] for row in rows} <= {answer.name for answer in done.answers}


def test_small_targets_can_be_left_out(detector: Detector, folder: Path, tmp_path: Path) -> None:
    for least in (1, 4):
        options = PredictOptions(threshold=0.45, min_area=least, pictures=("masks",), tables=("csv",))
        predict_images(detector, [folder / "a.png"], tmp_path / str(least), options)
    rows = [list(csv.DictReader((tmp_path / n / "targets.csv").open())) for n in ("1", "4")]
    assert [r for r in rows[0] if int(r["area"]) >= 4] == rows[1] != rows[0]
    mask = cv2.imread(str(tmp_path / "4" / "masks" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert np.count_nonzero(mask) == sum(int(r["area"]) for r in rows[1])
    assert not (tmp_path / "4" / "targets.json").exists()


def test_a_broken_image_is_named_and_the_rest_goes_on(
    detector: Detector, folder: Path, tmp_path: Path
) -> None:
    (folder / "aa.png").write_bytes((folder / "a.png").read_bytes()[:300])
    options = PredictOptions(tiling=Tiling(batch_size=2))
    done = predict_images(detector, find_images([folder]), tmp_path / "out", options)
    assert [path.name for path, _ in done.failures] == ["aa.png"]
    assert "aa.png" in str(done.failures[0][1])
    assert [answer.name for answer in done.answers] == ["a", "b", "deep"]


def test_a_stopped_job_goes_on_where_it_was(
    detector: Detector, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, paths = tmp_path / "out", find_images([folder], recursive=True)
    whole = predict_images(detector, paths, tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_images(detector, paths, out, progress=stop)
    with (out / "predictions.jsonl").open("a") as stream:
        stream.write('{"cut off')
    seen = []
    monkeypatch.setattr("istd.engine.prediction.read_gray", lambda path: seen.append(path) or read(path))
    from istd.data import read_gray as read

    done = predict_images(detector, paths, out, PredictOptions(skip_existing=True))
    assert done.skipped == 2
    assert seen == paths[2:]
    assert done.answers == whole.answers
    for name in ("targets.csv", "targets.json", "targets.coco.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    # A changed image, or a picture that is gone, is answered again.
    (out / "masks" / "b.png").unlink()
    cv2.imwrite(str(paths[0]), np.zeros((20, 20), np.uint8))
    seen.clear()
    again = predict_images(detector, paths, out, PredictOptions(skip_existing=True))
    assert seen == [paths[0], paths[1]]
    assert again.answers[0].height == 20

    with pytest.raises(ConfigError, match=r"threshold=0\.5"):
        predict_images(detector, paths, out, PredictOptions(threshold=0.4, skip_existing=True))
    assert predict_images(detector, paths, out, PredictOptions(threshold=0.4)).skipped == 0


def test_of_two_images_of_one_name_the_picture_and_the_answer_are_of_the_same(
    detector: Detector, tmp_path: Path
) -> None:
    """Their masks have one name, so the second takes the place of the first, and the first is made again."""
    rng = np.random.default_rng(1)
    for place, size in (("one", (40, 52)), ("two", (33, 30))):
        (tmp_path / place).mkdir()
        cv2.imwrite(str(tmp_path / place / "frame.png"), rng.integers(0, 255, size).astype(np.uint8))
    out, options = tmp_path / "out", PredictOptions(skip_existing=True)
    for place, size, skipped in (
        ("one", (40, 52), 0),
        ("one", (40, 52), 1),
        ("two", (33, 30), 0),
        ("one", (40, 52), 0),
        ("one", (40, 52), 1),
    ):
        done = predict_images(detector, find_images([tmp_path / place]), out, options)
        assert done.skipped == skipped
        assert (done.answers[0].height, done.answers[0].width) == size
        assert cv2.imread(str(out / "masks" / "frame.png"), cv2.IMREAD_GRAYSCALE).shape == size


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8), np.uint8))
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7")
    assert find_images([tmp_path]) == find_images([tmp_path], recursive=True) == [tmp_path / "a.png"]


def test_a_detector_refuses_whole_numbers(detector: Detector) -> None:
    with pytest.raises(ModelError, match=r"divide 8-bit images by 255"):
        detector.logits(torch.zeros(1, 1, 32, 32, dtype=torch.uint8))


def test_the_form_to_deploy_gives_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = create_model("repisdnet")
    detector = Detector(model, None, make_header(TrainConfig(data="x", method="full"), None, 0.4, 0.1))
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 255, (20, 26)).astype(np.uint8))
    layers = []
    monkeypatch.setattr(Detector, "deployed", lambda self: layers.append(deployed(self)) or layers[0])
    options = PredictOptions(pictures=("probabilities",), tables=())
    predict_images(detector, [tmp_path / "a.png"], tmp_path, options)
    assert len(list(layers[0].model.modules())) < len(list(model.modules()))
    levels = cv2.imread(str(tmp_path / "probabilities" / "a.png"), cv2.IMREAD_UNCHANGED)
    pixels = torch.from_numpy(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED))[None, None] / 255
    expected = torch.sigmoid(detector.logits(pixels))[0, 0].numpy()
    np.testing.assert_allclose(levels / 65535, expected, atol=2e-5)
    log = (tmp_path / "predictions.jsonl").read_text()
    assert detector.fingerprint() in log


def test_sources_are_files_folders_and_patterns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.png", "b.png", "deep.tif"]
    assert [path.name for path in find_images([folder])] == names
    assert [path.name for path in find_images([folder / "*.png", folder / "b.png"])] == ["a.png", "b.png"]
    assert len(find_images([folder / "**"])) == len(find_images([folder], recursive=True)) == 4
    monkeypatch.chdir(folder)
    assert find_images(["[ab].png"]) == [Path("a.png"), Path("b.png")]
    cv2.imwrite("[ab].png", np.zeros((4, 4), np.uint8))
    assert find_images(["[ab].png"]) == [Path("[ab].png")]
    with pytest.raises(DataError, match=r"z\*\.png"):
        find_images(["z*.png"])
    with pytest.raises(DataError, match="no image to look at"):
        find_images(["notes*"])


def test_answers_to_equal_names_are_numbered() -> None:
    paths = [Path(p) for p in ("x/a.png", "y/a.png", "z/A.png", "a-2.png")]
    names = name_answers(paths)
    assert names[0] == "a"
    assert len({name.casefold() for name in names}) == 4


def test_targets_draw_back_to_their_mask() -> None:
    mask = np.random.default_rng(0).random((17, 23)) < 0.3
    targets = list_targets(mask.astype(np.float32))
    np.testing.assert_array_equal(draw_targets(targets, mask.shape), mask)
    assert all(sum(t.counts) == mask.size for t in targets)
    assert draw_targets([], (3, 4)).shape == (3, 4)


def test_unknown_outputs_are_refused() -> None:
    with pytest.raises(ConfigError, match="masks"):
        PredictOptions(pictures=("movies",))
    with pytest.raises(ConfigError, match="csv"):
        PredictOptions(tables=("xls",))
