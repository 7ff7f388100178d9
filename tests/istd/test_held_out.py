"""What is held out: by which images a run chooses, and what it never sees before its end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_compare import assert_same

from istd.data import Record, SyntheticDataset, pack
from istd.engine import RunFolder, TrainConfig, Trainer, load_state, read_lines
from istd.labels import LabelStore
from istd.report import read_run
from istd.report.page import list_warnings, over_seeds

pytestmark = pytest.mark.usefixtures("without_pictures")

SMALL: dict[str, Any] = {"method": "full", "epochs": 1, "crop": 32, "batch_size": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "synthetic.h5"
    pack(SyntheticDataset(num_train=8, num_val=0, num_test=2, size=(32, 32), seed=3), path)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data: Path, without_pictures: None) -> list[Path]:
    roots = [tmp_path_factory.mktemp("runs") / str(seed) for seed in (0, 1)]
    for seed, root in enumerate(roots):
        Trainer(TrainConfig(data=str(data), seed=seed, **SMALL), root).fit()
    return roots


def test_runs_over_several_seeds_are_averaged(runs: list[Path]) -> None:
    found = [read_run(root) for root in runs]
    assert list_warnings(found) == []
    rows = over_seeds(found)
    assert {(row["split"], row["seeds"]) for row in rows} == {("test", 2), ("val", 2)}


def test_eval_uses_the_splits_of_the_run(
    istd: Callable[..., tuple[int, str]], runs: list[Path], tmp_path: Path, data: Path
) -> None:
    results = json.loads((runs[1] / "results.json").read_text())
    assert (results["images"]["train"], results["images"]["val"]) == (6, 2)
    code, text = istd("eval", runs[1], "--split", "val", "--out", tmp_path / "val.json")
    assert code == 0, text
    written = json.loads((tmp_path / "val.json").read_text())
    assert written["metrics"]["val"] == results["metrics"]["val"]
    assert written["split_hash"] == results["split_hash"]
    moved = tmp_path / "moved.h5"
    moved.write_bytes(data.read_bytes())
    for where, count in ((moved, 6), (other_data(tmp_path), 5)):
        code, text = istd("eval", runs[1], "--data", where, "--split", "train")
        assert code == 0, text
        assert f"{count} images" in text


def other_data(folder: Path) -> Path:
    path = folder / "other.h5"
    pack(SyntheticDataset(num_train=5, num_val=0, num_test=1, size=(32, 32), seed=4), path)
    return path


class Unmasked(SyntheticDataset):
    """Its first test image has no mask."""

    def _read(self, name: str) -> Record:
        record = super()._read(name)
        return dataclasses.replace(record, mask=None) if name == self.splits["test"][0] else record


def test_a_split_without_figures_is_accounted_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.h5"
    pack(Unmasked(num_train=4, num_val=1, num_test=3, size=(32, 32), seed=3), path)
    results = Trainer(TrainConfig(data=str(path), **SMALL), tmp_path / "run").fit()
    assert set(results["metrics"]) == {"val"}
    assert results["not_evaluated"] == {"test": "1 of 3 images have no mask"}
    assert "1 of 3 images have no mask" in capsys.readouterr().out


class Unseen(SyntheticDataset):
    """What training from points must not see is other than in `SyntheticDataset`: all of the test images, and
    the masks of the training images.
    """

    def _read(self, name: str) -> Record:
        record = super()._read(name)
        if name in self.splits["test"]:
            return dataclasses.replace(record, image=255 - record.image, mask=~(record.image > 0))
        if name in self.splits["train"]:
            return dataclasses.replace(record, mask=np.roll(record.mask, 9, axis=1))
        return record


def test_neither_test_images_nor_training_masks_change_what_is_trained(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 2, "crop": 32, "batch_size": 4, "vfm": "none", "clusters": 2}
    settings |= {"evolve_every": 1, "outer_every": 1, "outer_steps": 1, "eval_every": 2, "ema": 0.9}
    settings |= {"distractor_fraction": 0.3}
    found = []
    for kind in (SyntheticDataset, Unseen):
        data, run = tmp_path / f"{kind.__name__}.h5", RunFolder(tmp_path / kind.__name__)
        pack(kind(num_train=8, num_val=2, num_test=2, size=(40, 40), seed=2), data)
        results = Trainer(TrainConfig(data=str(data), **settings), run.root).fit()
        kept = load_state(run.student, kind="student")["weights"], load_state(run.checkpoint, kind="run")
        labels = LabelStore.open(run.labels)
        assert labels.latest == 1
        log = [
            {name: value for name, value in line.items() if name not in ("seconds", "label_iou_train")}
            for line in read_lines(run.log)
        ]
        found.append((results, kept[0], kept[1]["method"], labels.labels(), log))
    (seen, weights, state, labels_of, log_of), (other, *same) = found
    assert_same(same, [weights, state, labels_of, log_of])
    assert seen["selection"] == other["selection"]
    assert seen["metrics"]["val"] == other["metrics"]["val"]
    # They were others, and the end of the run did see that.
    tables = [(tmp_path / kind.__name__ / "per_image.csv").read_text() for kind in (SyntheticDataset, Unseen)]
    assert tables[0] != tables[1]
    assert seen["labels"]["iou_train"] != other["labels"]["iou_train"]
