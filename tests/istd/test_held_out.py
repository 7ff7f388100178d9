"""Runs on data without a validation list, and on test images without masks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from istd.data import Record, SyntheticDataset, pack
from istd.engine import TrainConfig, Trainer
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
