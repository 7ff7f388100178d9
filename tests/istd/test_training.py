"""Whole runs, small: every method ends, and a run that is stopped ends as if it had not been."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import training_processes
from fault_compare import assert_same
from fault_server import Fault

from istd.data import SyntheticDataset, pack
from istd.engine import RunFolder, TrainConfig, Trainer, load_detector, load_state, read_lines
from istd.errors import CheckpointError, ConfigError, DataError, ModelError, WriteError
from istd.labels import LabelStore

pytestmark = pytest.mark.usefixtures("without_pictures", "speck")

SMALL = {
    "backbone": "speck",
    "modulation_scale": 0.5,
    "epochs": 5,
    "crop": 32,
    "batch_size": 4,
    "vfm": "random:test_vit",
    "evolve_every": 1,
    "outer_every": 2,
    "outer_steps": 1,
    "clusters": 2,
    "eval_every": 2,
    "ema": 0.9,
    "lr": 2e-3,
}
PUBLISHED = {"backbone": "mlclnet", "modulation_scale": None}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ISTD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def speck():
    """A tiny network, known by this name."""
    with training_processes.registered():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "synthetic.h5"
    pack(SyntheticDataset(num_train=10, num_val=4, num_test=4, size=(40, 48), seed=3), path)
    return path


def config(data, **changes):
    return TrainConfig(**{"data": str(data), **SMALL, **changes})


def fingerprint(root: Path):
    """Everything that must not depend on having been stopped."""
    folder = RunFolder(root)
    results = json.loads(folder.results.read_text())
    for key in ("seconds", "sha256", "command", "code", "machine"):  # how it came about, not what
        del results[key]
    log = [{key: value for key, value in line.items() if key != "seconds"} for line in read_lines(folder.log)]
    state = load_state(folder.checkpoint, kind="run")
    state["position"].pop("seconds")
    state["config"].pop("checkpoint_seconds")  # when it was saved, not what
    labels = LabelStore.open(folder.labels).labels() if folder.labels.exists() else {}
    return results, log, state, labels


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "full"},
        {"method": "lesps", "evolve_loss": 1e9},
        {"method": "pal", "label_init": "canny", "lock": "saturated"},
        {"method": "semantic-prior", "hypergradient": "gauss-newton"},
        {"method": "semantic-prior", "hypergradient": "unrolled", "backbone": "alclnet", "epochs": 2},
        {"method": "semantic-prior", "hypergradient": "implicit", "coupling": "separate", "epochs": 2},
        {"method": "semantic-prior", "hypergradient": "off", "vfm": "none", "epochs": 2},
        {"method": "semantic-prior", "hypergradient": "reference", "student_weight": 0.0, "epochs": 2},
        {"method": "semantic-prior", "modulation": "cascade", "student_weight": 0.0, "epochs": 2},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_every_method_runs_to_the_end(tmp_path, data, changes):
    results = Trainer(config(data, **{**PUBLISHED, **changes}), tmp_path / "run").fit()

    roles = {"student", "teacher"} if changes["method"] == "semantic-prior" else {"student"}
    assert set(results["metrics"]["test"]) == roles
    for values in results["metrics"]["test"].values():
        assert 0.0 <= values["iou"] <= 1.0
        assert 0.0 <= values["pd"] <= 1.0
    folder = RunFolder(tmp_path / "run")
    for path in (folder.config, folder.results, folder.per_image, folder.student):
        assert path.stat().st_size > 0, path
    assert len(list(read_lines(folder.log))) == results["config"]["epochs"]
    if changes.get("hypergradient") in ("gauss-newton", "unrolled", "implicit", "reference"):
        outer = [line for line in read_lines(folder.log) if "hypergradient_norm" in line]
        assert outer
        # A batch from a single cluster has nothing to weigh, so single visits may find exactly 0.
        assert max(line["hypergradient_norm"] for line in outer) > 0
    if changes["method"] != "full":
        assert LabelStore.open(folder.labels).latest >= (1 if results["config"]["epochs"] == 5 else 0)


@pytest.mark.slow
def test_training_learns(tmp_path, data):
    """The student finds targets that it was only ever told one point of."""
    before = Trainer(config(data, **PUBLISHED, epochs=1, lr=1e-9), tmp_path / "before").fit()
    rarely = {"eval_every": 10, "evolve_every": 10, "outer_every": 10}
    after = Trainer(config(data, **PUBLISHED, **rarely, epochs=30, lr=4e-3), tmp_path / "after").fit()
    assert after["metrics"]["test"]["student"]["iou"] > before["metrics"]["test"]["student"]["iou"] + 0.2
    losses = [line["loss"] for line in read_lines(RunFolder(tmp_path / "after").log)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, data, without_pictures, speck):
    root = tmp_path_factory.mktemp("whole") / "run"
    Trainer(config(data), root).fit()
    return fingerprint(root)


def test_same_seed_same_result(tmp_path, data, uninterrupted):
    Trainer(config(data), tmp_path / "run").fit()
    assert_same(fingerprint(tmp_path / "run"), uninterrupted)


def test_another_seed_another_result(tmp_path, data, uninterrupted):
    Trainer(config(data, seed=1), tmp_path / "run").fit()
    losses = [line["loss"] for line in read_lines(RunFolder(tmp_path / "run").log)]
    assert losses != [line["loss"] for line in uninterrupted[1]]


def command(data, out, *more):
    said = ["train", "--data", data, "--out", out, *more]
    for name in ("backbone", "epochs", "crop", "batch_size", "vfm"):
        said += [f"--{name.replace('_', '-')}", SMALL[name]]
    # A checkpoint at every step.
    rest = {name: value for name, value in SMALL.items() if f"--{name.replace('_', '-')}" not in said}
    for name, value in {**rest, "checkpoint_seconds": 0}.items():
        said += ["--set", f"{name}={value}"]
    return said


def lines_done(out):
    return len(list(read_lines(RunFolder(out).log)))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
@pytest.mark.parametrize(
    ("number", "after_lines"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)], ids=["ctrl-c", "term"]
)
def test_a_stopped_run_ends_like_an_uninterrupted_one(
    tmp_path, data, uninterrupted, server, number, after_lines
):
    out, nothing = tmp_path / "run", Fault(str(tmp_path))
    cache = {"ISTD_CACHE": os.environ["ISTD_CACHE"]}
    process = server.start(command(data, out), nothing, **cache)
    deadline = time.monotonic() + 120
    while lines_done(out) < after_lines and time.monotonic() < deadline:
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):  # it failed: see its output
        os.kill(process, number)
    stopped = server.wait()
    assert stopped.code == 130, stopped.output
    assert after_lines <= lines_done(out) < 5, "it was not stopped between its epochs"

    resumed = server.run(command(data, out, "--resume"), nothing, **cache)
    assert resumed.code == 0, resumed.output
    results, log, state, labels = fingerprint(out)
    results["config"]["checkpoint_seconds"] = uninterrupted[0]["config"]["checkpoint_seconds"]
    assert_same((results, log, state, labels), uninterrupted)


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path, data, uninterrupted):
    folder = RunFolder(tmp_path / "run")
    folder.acquire()
    folder.start(config(data))
    folder.labels.write_bytes(b"half a file")
    folder.release()
    Trainer(None, tmp_path / "run", resume=True).fit()
    assert_same(fingerprint(tmp_path / "run"), uninterrupted)


def test_what_a_killed_process_was_writing_is_removed(tmp_path, data):
    folder = RunFolder(tmp_path / "run")
    Trainer(config(data, epochs=1, method="full"), folder.root).fit()
    stale = [
        folder.root / ".labels.x1y2.partial.h5",
        folder.checkpoint.with_name(".last.z.partial.safetensors"),
    ]
    kept = folder.root / ".mine.partial.h5"
    for path in (*stale, kept):
        path.write_bytes(b"half a file")
    Trainer(None, folder.root, resume=True).fit()
    assert not any(path.exists() for path in stale)
    assert kept.exists()


def test_the_teacher_is_validated_beside_the_student(tmp_path, data):
    Trainer(config(data, epochs=2, hypergradient="off"), tmp_path / "run").fit()
    lines = [line for line in read_lines(RunFolder(tmp_path / "run").log) if "val_student_iou" in line]
    assert lines
    assert all(0.0 <= line["val_teacher_iou"] <= 1.0 for line in lines)


def test_lesps_evolves_once_its_loss_is_low_enough(tmp_path, data):
    never = config(data, method="lesps", evolve_loss=1e-9, epochs=3)
    Trainer(never, tmp_path / "never").fit()
    assert LabelStore.open(RunFolder(tmp_path / "never").labels).latest == 0
    soon = config(data, method="lesps", evolve_loss=1e9, evolve_every=3, epochs=5)
    Trainer(soon, tmp_path / "soon").fit()
    history = LabelStore.open(RunFolder(tmp_path / "soon").labels).history()
    assert [version.epoch for version in history] == [0, 1, 3]
    assert history[0].pool_size == 10, "the training images; nothing trains on those of validation"


def test_resuming_a_finished_run_changes_nothing(tmp_path, data):
    Trainer(config(data, epochs=2), tmp_path / "run").fit()
    before = fingerprint(tmp_path / "run")
    Trainer(None, tmp_path / "run", resume=True).fit()
    assert_same(fingerprint(tmp_path / "run"), before)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path, data):
    Trainer(config(data, epochs=1), tmp_path / "run").fit()
    with pytest.raises(CheckpointError, match="--resume"):
        Trainer(config(data, epochs=1), tmp_path / "run").fit()


def test_two_runs_in_one_folder_are_refused(tmp_path, data):
    first = RunFolder(tmp_path / "run")
    first.acquire()
    try:
        with pytest.raises(CheckpointError, match=str(os.getpid())):
            Trainer(config(data), tmp_path / "run").fit()
    finally:
        first.release()


def test_resume_without_a_run_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no run"):
        Trainer(None, tmp_path / "nothing", resume=True)


def test_a_lost_label_store_is_named(tmp_path, data):
    Trainer(config(data, epochs=1), tmp_path / "run").fit()
    RunFolder(tmp_path / "run").labels.unlink()
    with pytest.raises(CheckpointError, match=r"labels\.h5"):
        Trainer(None, tmp_path / "run", resume=True).fit()


def test_saved_detectors_answer_as_in_training(tmp_path, data):
    trainer = Trainer(config(data, epochs=2), tmp_path / "run")
    trainer.fit()
    image = torch.rand(1, 1, 37, 45)
    for role in ("student", "teacher"):
        loaded = load_detector(tmp_path / "run", role=role)
        assert torch.equal(loaded.logits(image), trainer.detector.logits(image, role))
    teacher = load_state(RunFolder(tmp_path / "run").teacher, kind="teacher")
    assert not any("vfm" in name or "vit" in name for name in teacher["weights"])
    assert teacher["weights"].keys() == trainer.detector.model.state_dict().keys()
    frozen = {tuple(value.shape) for value in trainer.vfm.model.state_dict().values() if value.ndim > 1}
    assert frozen.isdisjoint(tuple(value.shape) for value in teacher["weights"].values() if value.ndim > 1)


def test_a_checkpoint_of_another_backbone_is_refused(tmp_path, data):
    Trainer(config(data, epochs=1, method="full"), tmp_path / "run").fit()
    with pytest.raises(CheckpointError, match="speck"):
        load_detector(tmp_path / "run", backbone="alclnet")
    with pytest.raises(CheckpointError, match="no teacher"):
        load_detector(tmp_path / "run", role="teacher")


@pytest.mark.parametrize("method", ["full", "semantic-prior"])
def test_divergence_is_an_error_and_keeps_the_last_checkpoint(tmp_path, data, method):
    diverging = config(data, **PUBLISHED, lr=2e9, method=method, epochs=3, checkpoint_seconds=0)
    trainer = Trainer(diverging, tmp_path / "run")
    with pytest.raises(ConfigError, match="not finite"):
        trainer.fit()
    assert load_state(RunFolder(tmp_path / "run").checkpoint, kind="run")["position"]["step"] > 0


class Crash(Exception):
    """What a kill would have been."""


CRASHES = [
    ("full", {}, "JsonLines.append", 2),
    ("pal", {}, "LabelStore.commit", 2),
    ("lesps", {"evolve_loss": 1e9}, "JsonLines.append", 2),
    ("semantic-prior", {"hypergradient": "unrolled"}, "Detector.save_student", 1),
    ("semantic-prior", {"hypergradient": "implicit"}, "save_run_state", 3),
    ("semantic-prior", {"hypergradient": "reference", "lock": "saturated"}, "save_run_state", 3),
    ("semantic-prior", {"vfm_cache": "full-image", "hypergradient": "off"}, "LabelStore.commit", 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "changes", "where", "call"), CRASHES, ids=lambda value: str(value))
def test_a_crash_right_after_any_write_changes_nothing(
    tmp_path, data, monkeypatch, method, changes, where, call
):
    from istd.engine import detector, run_folder, trainer

    made = config(data, method=method, epochs=4, **changes)
    Trainer(made, tmp_path / "whole").fit()

    owner, _, name = where.rpartition(".")
    target = {"JsonLines": run_folder.JsonLines, "LabelStore": LabelStore, "Detector": detector.Detector}.get(
        owner, trainer
    )
    original, calls = getattr(target, name), []

    def crash(*arguments, **options):
        result = original(*arguments, **options)
        calls.append(1)
        if len(calls) == call:
            raise Crash
        return result

    with monkeypatch.context() as patch:
        patch.setattr(target, name, crash)
        with pytest.raises(Crash):
            Trainer(made, tmp_path / "run").fit()
    Trainer(None, tmp_path / "run", resume=True).fit()
    assert_same(fingerprint(tmp_path / "run"), fingerprint(tmp_path / "whole"))


def test_a_failed_start_leaves_the_folder_free(tmp_path, data):
    with pytest.raises(DataError):
        Trainer(config(tmp_path / "nowhere"), tmp_path / "run").fit()
    with pytest.raises(ModelError):
        Trainer(config(data, vfm=str(tmp_path / "lost.safetensors")), tmp_path / "run").fit()
    assert Trainer(config(data, epochs=1), tmp_path / "run").fit()["seed"] == 0


class Moved(SyntheticDataset):
    """Its points are a pixel further to the right, where there is room."""

    def _read(self, name):
        record = super()._read(name)
        points = np.minimum(record.points + np.array([0, 1]), np.array(record.image.shape) - 1)
        return replace(record, points=points)


def test_a_run_is_not_resumed_on_other_data(tmp_path, data):
    path = tmp_path / "data.h5"
    path.write_bytes(data.read_bytes())
    Trainer(config(path, epochs=1, method="full"), tmp_path / "run").fit()
    others = {
        "mean": SyntheticDataset(10, 4, 4, (40, 48), seed=4),
        "data_hash": Moved(10, 4, 4, (40, 48), seed=3),
    }
    for named, other in others.items():
        pack(other, path)
        with pytest.raises(CheckpointError, match=rf"other data(.|\n)*{named}"):
            Trainer(None, tmp_path / "run", resume=True).fit()


def test_training_leaves_torch_as_it_was(tmp_path, data):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Trainer(config(data, epochs=1, method="full"), tmp_path / "run").fit()
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_full_disk_under_the_log_is_named(tmp_path, data, monkeypatch):
    from istd.engine import run_folder

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder.json, "dumps", full)
    with pytest.raises(WriteError, match=r"log\.jsonl"):
        run_folder.JsonLines(tmp_path / "log.jsonl").append({"epoch": 0})
