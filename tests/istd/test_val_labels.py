"""Labels of validation images evolve where something reads them; nothing else depends on whether they do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_compare import assert_same
from training_processes import registered

from istd.data import Record, SyntheticDataset, pack
from istd.engine import RunFolder, TrainConfig, Trainer, load_state, read_lines, trainer
from istd.engine.label_state import update_labels
from istd.engine.methods import PlainMethod, register_method
from istd.labels import LabelStore

pytestmark = pytest.mark.usefixtures("without_pictures")

SETTINGS: dict[str, Any] = {
    "backbone": "speck",
    "modulation_scale": 0.5,
    "prior": None,
    "epochs": 3,
    "crop": 32,
    "batch_size": 4,
    "vfm": "none",
    "clusters": 2,
    "ema": 0.9,
    "lr": 5e-3,
    "evolve_start": 0.0,
    "evolve_every": 1,
    "outer_every": 1,
    "outer_steps": 1,
    "eval_every": 1,
}


class OnePoint(SyntheticDataset):
    """Validation images have points alone."""

    def _read(self, name: str) -> Record:
        record = super()._read(name)
        return dataclasses.replace(record, mask=None) if name in self.splits["val"] else record


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Packed images; whether those of validation have masks → where."""
    folder = tmp_path_factory.mktemp("data")
    paths = {True: folder / "masks.h5", False: folder / "points.h5"}
    for masks, path in paths.items():
        kind = SyntheticDataset if masks else OnePoint
        pack(kind(num_train=8, num_val=3, num_test=1, size=(32, 40), seed=3), path)
    return paths


class TwoLevels(PlainMethod):
    """A method with an outer level, of somebody else."""

    supervision = "points"
    has_outer_problem = True

    def outer_step(self, train: Any, val: Any) -> dict[str, float]:
        return {"outer_loss": float(val.label.mean())}


@pytest.fixture(autouse=True)
def _own() -> Iterator[None]:
    with registered():
        register_method("two-levels")(TwoLevels)
        yield


def changed_val_labels(root: Path) -> list[int]:
    """How many labels of validation images each version changed."""
    history = LabelStore.open(RunFolder(root).labels).history()
    return [sum(name.startswith("val_") for name in version.changed) for version in history]


@pytest.mark.parametrize(
    ("masks", "changes", "read"),
    [
        (True, {"method": "pal"}, True),
        (False, {"method": "pal"}, False),
        (False, {"method": "semantic-prior"}, True),
        (False, {"method": "semantic-prior", "hypergradient": "off"}, False),
        (False, {"method": "two-levels"}, True),
    ],
    ids=str,
)
def test_they_evolve_where_they_are_read(
    tmp_path: Path, data: dict[bool, Path], masks: bool, changes: dict[str, Any], read: bool
) -> None:
    config = TrainConfig(data=str(data[masks]), **{**SETTINGS, **changes, "epochs": 2})
    Trainer(config, tmp_path / "run").fit()
    first, *later = changed_val_labels(tmp_path / "run")
    assert first == 3
    assert len(later) == 1
    assert all(count > 0 for count in later) == read, later


class Stopped(Exception):
    """What a kill would have been."""


def left_by(root: Path) -> tuple[Any, ...]:
    """What a run leaves, but for the labels of validation images and the number of labels that changed."""
    folder = RunFolder(root)
    results = json.loads(folder.results.read_text())
    for key in ("seconds", "sha256", "command", "code", "machine"):
        del results[key]
    logs = [
        {key: value for key, value in line.items() if key not in ("seconds", "labels_changed")}
        for line in read_lines(folder.log)
    ]
    state = load_state(folder.checkpoint, kind="run")
    state["position"].pop("seconds")
    store = LabelStore.open(folder.labels)
    names = [name for name in store.names if name.startswith("train_")]
    labels = [store.labels(version.number, names) for version in store.history()]
    weights = load_state(folder.student, kind="student")["weights"]
    return results, logs, state, labels, weights


@pytest.mark.parametrize("method", ["pal", "lesps"])
def test_training_is_the_same_whether_they_evolve_or_not(
    tmp_path: Path, data: dict[bool, Path], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    config = TrainConfig(data=str(data[False]), **{**SETTINGS, "method": method, "evolve_loss": 1e9})

    def evolve_all(*given: Any, **named: Any) -> dict[str, float]:
        return update_labels(*given, **{**named, "with_val": True})

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "update_labels", evolve_all)
        Trainer(config, tmp_path / "evolved").fit()
    Trainer(config, tmp_path / "whole").fit()
    assert max(changed_val_labels(tmp_path / "evolved")[1:]) > 0
    assert changed_val_labels(tmp_path / "whole") == [3, 0, 0]
    whole = left_by(tmp_path / "whole")
    assert whole[0]["selection"]["rule"] == "val-labels"
    assert_same(left_by(tmp_path / "evolved"), whole)

    # Stopped right after a version was written, before the checkpoint that counts it.
    commit, calls = LabelStore.commit, []

    def stop(store: LabelStore, **named: Any) -> None:
        commit(store, **named)
        calls.append(1)
        if len(calls) == 2:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(LabelStore, "commit", stop)
        with pytest.raises(Stopped):
            Trainer(config, tmp_path / "resumed").fit()
    Trainer(None, tmp_path / "resumed", resume=True).fit()
    assert_same(left_by(tmp_path / "resumed"), whole)
    assert changed_val_labels(tmp_path / "resumed") == [3, 0, 0]
