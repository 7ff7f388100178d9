"""Every backbone trains with every method, and labels evolve where they should: tiny runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from istd.data import SyntheticDataset, pack
from istd.engine import RunFolder, TrainConfig, Trainer, load_detector, read_lines
from istd.labels import LabelStore
from istd.models import list_models

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "synthetic.h5"
    pack(SyntheticDataset(num_train=4, num_val=1, num_test=1, size=(32, 32), seed=3), path)
    return path


def config(data: Path, method: str, backbone: str, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "epochs": 1,
        "crop": 32,
        "batch_size": 4,
        "vfm": "random:test_vit",
        "clusters": 2,
        "outer_every": 1,
        "outer_steps": 1,
        "eval_every": 1,
        **changes,
    }
    return TrainConfig(data=str(data), method=method, backbone=backbone, **settings)


@pytest.mark.parametrize("method", ["full", "lesps", "pal", "semantic-prior"])
@pytest.mark.parametrize("backbone", list_models())
def test_one_epoch(data: Path, tmp_path: Path, backbone: str, method: str) -> None:
    found = Trainer(config(data, method, backbone), tmp_path / "run").fit()

    (line,) = read_lines(RunFolder(tmp_path / "run").log)
    assert line["loss"] > 0
    roles = {"student", "teacher"} if method == "semantic-prior" else {"student"}
    assert set(found["metrics"]["test"]) == roles
    if method == "semantic-prior":
        assert line["hypergradient_norm"] > 0
    weights = load_detector(tmp_path / "run").backbone.state_dict()
    assert all(value.isfinite().all() for value in weights.values())
    counts = [value for name, value in weights.items() if name.endswith("num_batches_tracked")]
    assert counts
    assert all(value > 0 for value in counts)  # every layer took part in training


@pytest.mark.parametrize("method", ["lesps", "pal"])
def test_labels_evolve_in_the_second_epoch(data: Path, tmp_path: Path, method: str) -> None:
    Trainer(config(data, method, "mlclnet", epochs=2), tmp_path / "run").fit()
    folder = RunFolder(tmp_path / "run")
    first, second = read_lines(folder.log)
    assert "labels_changed" not in first
    assert second["labels_changed"] > 0
    assert [version.epoch for version in LabelStore.open(folder.labels).history()] == [0, 1]
