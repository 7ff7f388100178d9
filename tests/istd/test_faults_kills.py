"""Runs that are killed, again and again: they end as if they had not been.

`ISTD_KILLS` is how many kills are tried (2 unless it is set).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fault_compare import assert_same
from fault_server import Fault, FaultServer, Outcome

from istd.data import SyntheticDataset, write_synthetic
from istd.engine import RunFolder, load_state, read_lines
from istd.labels import LabelStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="needs fork and SIGKILL"),
    pytest.mark.timeout(7200),
]

KILLS = int(os.environ.get("ISTD_KILLS", "2"))
METHODS = {
    "semantic-prior": ["--hypergradient", "unrolled", "--set", "ema=0.9", "--set", "vfm_cache=full-image"],
    "pal": ["--set", "ema=0.8"],
    "lesps": ["--set", "evolve_loss=1e9", "--set", "ema=0.9"],
}
PICTURES = ("curves.png", "overlays.png", "labels.png", "per_image.csv")


@dataclass(frozen=True)
class Whole:
    """A run that nobody stopped: what it left, how long it took, and how often it acted on files."""

    left: dict[str, object]
    seconds: float
    acts: int


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "images"
    write_synthetic(SyntheticDataset(num_train=8, num_val=3, num_test=3, size=(32, 40), seed=3), folder)
    return folder


def train(data: Path, out: Path, method: str) -> list[object]:
    command: list[object] = ["train", "--data", data, "--out", out, "--method", method, *METHODS[method]]
    command += ["--epochs", 3, "--crop", 32, "--batch-size", 4, "--vfm", "random:test_vit"]
    command += ["--backbone", "speck", "--set", "modulation_scale=0.5"]
    # A checkpoint at every step; labels and weights change at every epoch.
    settings = {"checkpoint_seconds": 0, "evolve_every": 1, "eval_every": 1, "clusters": 2, "lr": 2e-3}
    for name, value in {**settings, "outer_every": 2, "outer_steps": 1}.items():
        command += ["--set", f"{name}={value}"]
    return command


def left_by(out: Path) -> dict[str, object]:
    """Everything that a run leaves and that must not depend on having been stopped."""
    folder = RunFolder(out)
    results = json.loads(folder.results.read_text())
    state = load_state(folder.checkpoint, kind="run")
    del results["seconds"], results["sha256"], results["code"], state["position"]["seconds"]
    log = [{key: value for key, value in line.items() if key != "seconds"} for line in read_lines(folder.log)]
    store = LabelStore.open(folder.labels)
    versions = {
        version.number: (version, store.pool(version.number), store.labels(version.number))
        for version in store.history()
    }
    weights = {
        path.name: load_state(path, kind=path.stem)
        for path in (folder.student, folder.teacher)
        if path.exists()
    }
    pictures = {name: (out / name).stat().st_size > 0 for name in PICTURES}
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    return {
        "config": json.loads(folder.config.read_text()),
        "results": results,
        "log": log,
        "state": state,
        "labels": versions,
        "weights": weights,
        "pictures": pictures,
        "files": [name for name in files if "previous" not in name],
    }


_known: dict[str, Whole] = {}


def whole(server: FaultServer, data: Path, folder: Path, method: str) -> Whole:
    """The uninterrupted run of a method, made once."""
    if method not in _known:
        began = time.monotonic()
        ended = server.run(
            train(data, folder / "run", method), Fault(str(folder)), ISTD_CACHE=str(folder / "c")
        )
        assert ended.code == 0, ended.output
        _known[method] = Whole(left_by(folder / "run"), time.monotonic() - began, ended.acts)
    return _known[method]


def run_and_kill(
    server: FaultServer, command: list[object], folder: Path, known: Whole, rng: np.random.Generator
) -> tuple[str, Outcome]:
    """Begin a command and kill it, by chance right before an act on files or at any time."""
    environment = {"ISTD_CACHE": str(folder / "c")}
    if rng.random() < 0.6:
        at = int(rng.integers(known.acts))
        return f"act {at} of {known.acts}", server.run(command, Fault(str(folder), at), **environment)
    seconds = float(rng.uniform(0.0, known.seconds))
    process = server.start(command, Fault(str(folder)), **environment)
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):  # it ended before
        os.kill(process, signal.SIGKILL)
    return f"{seconds:.2f} of {known.seconds:.2f} s", server.wait()


def describe(out: Path) -> str:
    """How far a killed run had come, for the account of a full test."""
    folder = RunFolder(out)
    if not folder.config.exists():
        return "set-up"
    if not folder.checkpoint.exists():
        return "label start" if not folder.labels.exists() else "first step"
    if folder.results.exists():
        return "pictures"
    position = load_state(folder.checkpoint, kind="run")["position"]
    return (
        "evaluation" if position["epoch"] == 3 else f"epoch {position['epoch'] + 1}, step {position['step']}"
    )


def test_killed_runs_end_like_an_uninterrupted_one(
    server: FaultServer, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(int(os.environ.get("ISTD_KILLS_SEED", "0")))
    methods, kills, runs = list(METHODS), 0, 0
    while kills < KILLS:
        method = methods[runs % len(methods)]
        runs += 1
        (tmp_path / method).mkdir(exist_ok=True)
        known = whole(server, data, tmp_path / method, method)
        folder = tmp_path / f"run-{runs}"
        folder.mkdir()
        command, account = train(data, folder / "run", method), []
        # Some runs are killed once, some again while they go on.
        for _ in range(min(int(rng.integers(1, 4)), KILLS - kills)):
            moment, ended = run_and_kill(server, command, folder, known, rng)
            account.append(f"{moment}: {describe(folder / 'run')}")
            if ended.code != -signal.SIGKILL:
                assert ended.code == 0, (account, ended.output)
                break
            kills += 1
            if RunFolder(folder / "run").config.exists() and "--resume" not in command:
                command.append("--resume")
        ended = server.run([*command], Fault(str(folder)), ISTD_CACHE=str(folder / "c"))
        if ended.code != 0 and "already holds a run" in ended.output:
            ended = server.run([*command, "--resume"], Fault(str(folder)), ISTD_CACHE=str(folder / "c"))
        assert ended.code == 0, (method, account, ended.output)
        assert_same(left_by(folder / "run"), known.left, f"{method} after {account}")
        shutil.rmtree(folder)
        with capfd.disabled():
            print(f"\n{method}: {'; '.join(account)}", end="")
