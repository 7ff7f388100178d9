"""istd labels: what a store's versions changed, against masks, in table, CSV and pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from istd.data import SyntheticDataset, pack, write_synthetic
from istd.labels import LabelStore, quality_by_version
from istd.viz import label_strips, most_changed, thin_out

MADE = SyntheticDataset(4, 2, 1, (48, 64), seed=5)


Istd = Callable[..., tuple[int, str]]


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    """Three versions: points, then the masks grown by a pixel for the first three images, then two masks."""
    names = (*MADE.splits["train"], *MADE.splits["val"])
    masks = {name: MADE.scene(name).mask for name in names}
    first = []
    for name in names:
        label = np.zeros((48, 64), np.float32)
        label[tuple(MADE.scene(name).points.T)] = 1
        first.append(label)
    pool = [True, False, True, True, True, True]
    store = LabelStore.create(tmp_path / "labels.h5", names, first, pool=pool, note="points")
    grown = {name: cv2.dilate(masks[name].astype(np.float32), np.ones((3, 3))) * 0.8 for name in names[:3]}
    store.commit(5, grown, pool=np.ones(6, bool), note="grown")
    store.commit(10, {name: masks[name].astype(np.float32) for name in names[:2]}, note="[good]")
    return store


def test_quality_by_version_is_what_a_plain_count_gives(store: LabelStore) -> None:
    masks = {name: MADE.scene(name).mask for name in store.names[:5]}
    rows = quality_by_version(store, masks.items())
    assert [(row.epoch, row.changed, row.entered, row.pool_size) for row in rows] == [
        (0, 6, 5, 5),
        (5, 3, 1, 6),
        (10, 2, 0, 6),
    ]
    for row in rows:
        chosen = store.pool(row.number)
        for figure, keep in ((row.iou, np.ones(6, bool)), (row.pool_iou, chosen)):
            pairs = [(store.label(n, row.number) > 0.5, masks[n]) for i, n in enumerate(masks) if keep[i]]
            common = sum(int((label & mask).sum()) for label, mask in pairs)
            union = sum(int((label | mask).sum()) for label, mask in pairs)
            assert figure == pytest.approx(common / union, abs=1e-12)
    assert rows[0].precision == 1
    assert rows[2].recall is not None
    assert rows[1].recall is not None
    assert rows[1].recall > (rows[0].recall or 0)
    assert [row.iou for row in quality_by_version(store)] == [None] * 3


def test_trusted_masks_are_no_labels_from_points(tmp_path: Path) -> None:
    names = MADE.splits["train"]
    masks = {name: MADE.scene(name).mask for name in names}
    labels = [masks[name].astype(np.float32) * (name == names[0]) for name in names]
    settings = {"trusted_masks": [names[0]]}
    store = LabelStore.create(tmp_path / "labels.h5", names, labels, settings=settings)
    (row,) = quality_by_version(store, masks.items())
    assert (row.iou, row.recall, row.pool_iou) == (0, 0, 0)


def test_strips_hold_every_version_of_what_there_ever_was(store: LabelStore) -> None:
    names = most_changed(store, 3, store.names[1:])
    assert names == [store.names[1], store.names[2], store.names[3]]
    assert most_changed(store, 1) == [store.names[0]]
    strips = label_strips(store, (MADE.read(name) for name in names))
    for name, strip in zip(names, strips, strict=True):
        assert [heading for heading, _ in strip.labels] == ["epoch 0", "epoch 5", "epoch 10"]
        for version, (_, label) in enumerate(strip.labels):
            assert label.shape == strip.image.shape
            assert label.sum() == pytest.approx(store.label(name, version).sum(), rel=1e-6)
        assert strip.truth is not None
        assert strip.truth.sum() == MADE.scene(name).mask.sum()
    assert [heading for heading, _ in thin_out(strips, 2)[0].labels] == ["epoch 0", "epoch 10"]


def test_labels_of_a_store_with_data(istd: Istd, store: LabelStore, tmp_path: Path) -> None:
    write_synthetic(MADE, tmp_path / "set")
    code, text = istd(
        "labels", store.path, "--data", tmp_path / "set", "--count", 3, "--out", tmp_path / "report"
    )
    assert code == 0, text
    assert "versions of the labels (points)" in text
    table = [line.split() for line in text.splitlines() if line.strip()[:1] in ("0", "1", "2")]
    expected = quality_by_version(store, ((name, MADE.scene(name).mask) for name in store.names))
    # Whole headings and figures, also in the 80 columns of a pipe.
    headings = "epoch changed in out train IoU of train precision recall"
    assert any(" ".join(line.split()) == headings for line in text.splitlines())
    assert table == [
        [
            *map(str, (row.number, row.epoch, row.changed, row.entered, row.left, row.pool_size)),
            *(f"{value:.3f}" for value in (row.iou, row.pool_iou, row.precision, row.recall)),
        ]
        for row in expected
    ]
    report = tmp_path / "report"
    assert {path.name for path in report.iterdir()} == {
        "versions.csv",
        "provenance.json",
        "gallery.png",
        "evolution.gif",
        "iou.png",
    }
    with (report / "versions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["changed"] for row in rows] == ["6", "3", "2"]
    assert [row["note"] for row in rows] == ["points", "grown", "[good]"]
    assert [float(row["iou"]) for row in rows] == pytest.approx([row.iou for row in expected])
    with Image.open(report / "evolution.gif") as gif:
        assert gif.n_frames == 3
        frames = []
        for number in range(3):
            gif.seek(number)
            frames.append(np.asarray(gif.convert("RGB")).astype(int))
    assert np.abs(frames[0] - frames[1]).max() > 50
    gallery = np.asarray(Image.open(report / "gallery.png").convert("RGB"))
    assert (np.abs(gallery.astype(int) - [0, 230, 120]).sum(2) < 40).any(), "the outline of the mask is there"


def test_labels_of_a_run_know_their_data(istd: Istd, store: LabelStore, tmp_path: Path) -> None:
    from istd.engine import TrainConfig

    pack(MADE, tmp_path / "set.h5")
    run = tmp_path / "run"
    run.mkdir()
    store.path.rename(run / "labels.h5")
    config = TrainConfig(data=str(tmp_path / "set.h5")).to_dict()
    (run / "config.json").write_text(json.dumps(config))
    code, text = istd("labels", run, "--image", "train_00001", "--no-gif", "--columns", 2)
    assert code == 0, text
    names = {path.name for path in (run / "label-report").iterdir()}
    assert names == {"versions.csv", "provenance.json", "gallery.png", "iou.png"}


def test_labels_without_data_are_a_table(istd: Istd, store: LabelStore) -> None:
    code, text = istd("labels", store.path)
    assert code == 0, text
    assert "give --data" in text
    assert "IoU" not in text
    written = {path.name for path in (store.path.parent / "label-report").iterdir()}
    assert written == {"versions.csv", "provenance.json"}


def test_labels_refuses(istd: Istd, store: LabelStore, tmp_path: Path) -> None:
    write_synthetic(SyntheticDataset(4, 2, 1, (48, 48), seed=5), tmp_path / "small")
    write_synthetic(SyntheticDataset(2, 0, 1, (48, 64), seed=5), tmp_path / "few")
    for arguments, message in (
        ((tmp_path / "nowhere",), "no label store"),
        ((store.path, "--image", "ghost"), "no label of this image"),
        ((store.path, "--data", tmp_path / "few"), "of other images"),
        ((store.path, "--data", tmp_path / "small"), "another size"),
    ):
        code, text = istd("labels", *arguments)
        assert code == 2
        assert message in text
    assert not list(tmp_path.glob("**/label-report"))


def test_labels_help_has_examples(istd: Istd) -> None:
    assert "istd labels runs/demo" in istd("labels", "--help")[1]
