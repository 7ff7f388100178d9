"""Two processes (torchrun, gloo, CPU) train as one does, and none outlives the other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import training_processes
from fault_compare import assert_same
from training_processes import RUNS, grow_labels, make_data, registered, train

import istd
from istd.engine import RunFolder, TrainConfig, Trainer, load_state, read_lines
from istd.labels import LabelStore

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_pictures")]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
TORCHRUN += ["--nproc-per-node=2"]


def environment(folder: Path) -> dict[str, str]:
    paths = os.pathsep.join(map(str, (Path(istd.__file__).parents[1], Path(__file__).parent)))
    return {**os.environ, "PYTHONPATH": paths, "ISTD_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, without_pictures: None) -> Iterator[Path]:
    """The data, and a folder of runs that two processes made."""
    root = tmp_path_factory.mktemp("processes")
    make_data(root / "data.h5")
    (root / "one").mkdir()
    (root / "two").mkdir()
    with pytest.MonkeyPatch.context() as patch, registered():
        patch.setenv("ISTD_CACHE", str(root / "cache-of-one"))
        with subprocess.Popen(
            [*TORCHRUN, training_processes.__file__, str(root / "data.h5"), str(root / "two")],
            env=environment(root),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            for name in RUNS:
                train(name, root / "data.h5", root / "one")
            output, _ = process.communicate(timeout=500)
            assert process.returncode == 0, output[-5000:]
        yield root


def left_by(run: Path) -> dict[str, object]:
    """Everything that a run leaves, but for time and for what says how and where it was made."""
    files = RunFolder(run)
    results = json.loads(files.results.read_text())
    state = load_state(files.checkpoint, kind="run")
    where = ("command", "code", "versions", "machine", "threads", "determinism")
    for part, names in (
        (results, ("seconds", "sha256", "processes", *where)),
        (state["position"], ("seconds",)),
        (state["config"], ("checkpoint_seconds",)),
        (results["config"], ("checkpoint_seconds",)),
    ):
        for name in names:
            del part[name]
    weights = [
        load_state(path, kind=path.stem)["weights"]
        for path in (files.student, files.teacher)
        if path.exists()
    ]
    log = [{key: value for key, value in line.items() if key != "seconds"} for line in read_lines(files.log)]
    return {"results": results, "state": state, "weights": weights, "log": log, "labels": history(files)}


def history(files: RunFolder) -> list[object]:
    if not files.labels.exists():
        return []
    store = LabelStore.open(files.labels)
    return [(version, store.labels(version.number)) for version in store.history()]


def assert_close(first: object, second: object, where: str = "run") -> None:
    """The same but for rounding: 1e-6 of the largest number of each tensor."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where  # type: ignore[attr-defined]
        for key in first:
            assert_close(first[key], second[key], f"{where}.{key}")  # type: ignore[index]
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where  # type: ignore[arg-type]
        for number, pair in enumerate(zip(first, second, strict=True)):  # type: ignore[call-overload]
            assert_close(*pair, f"{where}[{number}]")
    elif isinstance(first, float | torch.Tensor | np.ndarray):
        one, other = (torch.as_tensor(value, dtype=torch.float64) for value in (first, second))
        assert one.shape == other.shape, where
        if one.numel():
            error = float((one - other).abs().max())
            assert error <= 1e-6 * max(1.0, float(one.abs().max())), (where, error)
    else:
        assert first == second, where


@pytest.mark.parametrize("name", [name for name in RUNS if name != "astray"])
def test_two_processes_equal_one(folder: Path, name: str) -> None:
    """Weights of student and teacher, cluster weights, optimisers, every label, log and metrics."""
    two, one = (left_by(folder / kind / name) for kind in ("two", "one"))
    assert_close(two, one, name)
    assert json.loads(RunFolder(folder / "two" / name).results.read_text())["processes"] == 2


def test_labels_are_those_of_one_process_bit_for_bit(folder: Path) -> None:
    grow_labels(folder / "data.h5", folder / "one")
    two, one = (history(RunFolder(folder / kind)) for kind in ("two", "one"))
    assert_same(two, one)
    grown = [version for version, _ in one[1:]]
    assert all(version.changed for version in grown)
    assert any(version.entered for version in grown)
    qualities = [path.read_text() for path in sorted(folder.rglob("quality-*.json"))]
    assert len(qualities) == 3
    assert len(set(qualities)) == 1


def test_a_request_to_one_process_stops_all_and_the_run_goes_on(folder: Path) -> None:
    assert_same(left_by(folder / "two" / "stopped"), left_by(folder / "two" / "registered"))


@contextmanager
def two_processes(command: list[str], folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Python twice, as a launcher without an agent starts it: nobody but themselves ends them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**environment(folder), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            env={**shared, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="needs SIGKILL")
def test_a_killed_process_ends_the_others_and_the_run_resumes(folder: Path) -> None:
    command = ["-m", "istd", "train", "--data", str(folder / "data.h5"), "--method", "full", "--epochs", "4"]
    command += ["--crop", "32", "--batch-size", "4", "--out", str(folder / "killed"), "--device", "cpu"]
    settings = {"precision": "float64", "loss": "bce-iou", "checkpoint_seconds": 0, "ema": 0.5}
    command += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    with two_processes(command, folder) as processes:
        log = RunFolder(folder / "killed").log
        while len(list(read_lines(log))) < 1:
            assert processes[0].poll() is None, processes[0].communicate()[0]
            time.sleep(0.02)
        processes[1].send_signal(signal.SIGKILL)
        output, _ = processes[0].communicate(timeout=300)
    assert processes[0].returncode == 2, output
    assert "another process of this run has ended" in output
    assert "--resume" in output
    assert "Traceback" not in output
    assert len(list(read_lines(log))) < 4, "the run ended before it could be killed"

    # Saved by two, finished by one: the state is that of a run, not of its processes.
    Trainer(None, folder / "killed", resume=True).fit()
    config = TrainConfig.from_dict(json.loads(RunFolder(folder / "killed").config.read_text()))
    Trainer(config, folder / "uninterrupted").fit()
    assert_close(left_by(folder / "killed"), left_by(folder / "uninterrupted"))


def test_a_process_that_fails_ends_the_run_with_its_reason_and_the_run_resumes(folder: Path) -> None:
    """A bad image in the part of a batch that the second process has."""
    command = [training_processes.__file__, str(folder / "data.h5"), str(folder / "failed"), "fail"]
    with two_processes(command, folder) as processes:
        said = [process.communicate(timeout=500)[0] for process in processes]
    for rank, output in enumerate(said):
        assert processes[rank].returncode == 1, output
        assert "images/007.png: the image is damaged" in output
        assert "the group is gone" in output
        assert "Traceback" not in output
    assert "process 1 of this run has ended" in said[0]
    assert "process 1" not in said[1]
    assert len(list(read_lines(RunFolder(folder / "failed" / "lesps").log))) == 1

    Trainer(None, folder / "failed" / "lesps", resume=True).fit()
    assert_close(left_by(folder / "failed" / "lesps"), left_by(folder / "one" / "lesps"))
