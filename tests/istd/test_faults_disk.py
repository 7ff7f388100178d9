"""Disks that are full or may not be written, at acts of the commands that write: named, and nothing is lost.

`ISTD_DISK_FAULTS` is how many moments are tried for each command and each kind of fault (1 unless it is set;
at most, all there are). Folders that forbid writing cannot be tested by permissions, which do not bind root;
the errors that they cause are raised instead.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from fault_compare import assert_same
from fault_server import Fault, FaultServer, Outcome

from istd.data import SyntheticDataset, write_synthetic
from istd.engine import RunFolder, load_state, read_lines
from istd.engine.run_state import previous_path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="needs fork and limits of files"),
    pytest.mark.timeout(7200),
]

TRIES = int(os.environ.get("ISTD_DISK_FAULTS", "1"))
ERRORS = ("ENOSPC", "EROFS", "EACCES")
LIMITS = (0, 700, 5000, 40_000, 300_000)  # bytes of a file


@dataclass(frozen=True)
class Place:
    """What the commands work on: images, and a run that was trained on them in so many acts on files."""

    data: Path
    run: Path
    acts: int


@pytest.fixture(scope="module")
def place(server: FaultServer, tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("place")
    write_synthetic(
        SyntheticDataset(num_train=4, num_val=2, num_test=2, size=(32, 40), seed=3), root / "images"
    )
    made = Place(root / "images", root / "run", 0)
    ended = server.run(command("train", made, made.run), Fault(str(root)), ISTD_CACHE=str(root / "cache"))
    assert ended.code == 0, ended.output
    return replace(made, acts=ended.acts)


def command(name: str, place: Place, out: Path) -> list[object]:
    """A command that writes all it can to `out`."""
    settings = ["--set", "vfm_cache=full-image", "--set", "clusters=2", "--set", "evolve_every=1"]
    settings += ["--set", "checkpoint_seconds=0", "--set", "evolve_start=0"]
    run, data = place.run, place.data
    settings += ["--set", "modulation_scale=0.5"]
    tiny = ["--epochs", 2, "--crop", 32, "--batch-size", 4, "--vfm", "random:test_vit", "--backbone", "speck"]
    return {
        "train": ["train", "--data", data, "--out", out, *tiny, *settings],
        "eval": ["eval", run, "--out", out],
        "predict": ["predict", run, data / "images", "--out", out, "--save", "masks,overlays,probabilities"],
        "pack": ["pack", data, "--out", out / "packed.h5"],
        "labels": ["labels", run, "--out", out],
        "points-csv": ["points", data, "--out", out / "points.csv"],
        "points-images": ["points", data, "--out", out / "points"],
        "synth": [
            "synth",
            out / "made",
            "--train",
            2,
            "--val",
            1,
            "--test",
            1,
            "--height",
            32,
            "--width",
            32,
        ],
        "torchscript": ["export", run, "--out", out / "model.pt", "--format", "torchscript", "--no-check"],
        "report": ["report", run, "--out", out / "report.html"],
    }[name]


COMMANDS = ("predict", "pack", "labels", "points-csv", "points-images", "synth", "torchscript", "report")
COMMANDS = ("train", "eval", *COMMANDS)


def check_refused(ended: Outcome, root: Path, where: str) -> None:
    assert "Traceback" not in ended.output, (where, ended.output)
    assert ended.code == 2, (where, ended.code, ended.output)
    assert "error" in ended.output, (where, ended.output)
    assert str(root) in ended.output, (where, ended.output)
    assert not list(root.rglob("*.partial*")), where


def go_on(server: FaultServer, name: str, place: Place, root: Path) -> Outcome:
    """The same command again, on a disk that is well."""
    again = command(name, place, root / "out")
    if name in ("pack", "points-csv") and Path(str(again[-1])).exists():
        again.append("--force")
    if name == "train" and RunFolder(root / "out").config.exists():
        again.append("--resume")
    return server.run(again, Fault(str(root)), ISTD_CACHE=str(root / "cache"))


def files_in(root: Path) -> list[str]:
    hidden = (".lock", previous_path(RunFolder(root).checkpoint).name)
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name not in hidden
    )


def whole_run(server: FaultServer, name: str, place: Place, root: Path) -> tuple[Path, int]:
    """What a command writes on a disk that is well, and in how many acts on files."""
    if name == "train":
        return place.run, place.acts
    root.mkdir()
    ended = server.run(command(name, place, root / "out"), Fault(str(root)), ISTD_CACHE=str(root / "cache"))
    assert ended.code == 0, ended.output
    return root / "out", ended.acts


def check_trained(out: Path, place: Path, where: str) -> None:
    """A run that went on after a fault has lost nothing: its results and weights are those of `place`."""
    results = [json.loads(RunFolder(one).results.read_text()) for one in (out, place)]
    for one in results:
        del one["seconds"], one["sha256"], one["code"]
    assert_same(*results, where)
    logs = [[{**line, "seconds": 0} for line in read_lines(RunFolder(one).log)] for one in (out, place)]
    assert_same(*logs, where)
    for role in ("student", "teacher"):
        weights = [load_state(RunFolder(one).weights(role), kind=role) for one in (out, place)]
        assert_same(*weights, where)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_refuses_is_named_and_the_next_call_goes_on(
    server: FaultServer, place: Place, tmp_path: Path, name: str
) -> None:
    whole, acts = whole_run(server, name, place, tmp_path / "whole")
    assert acts > 0
    expected = files_in(whole)
    rng = np.random.default_rng(len(name))
    for kind in ERRORS if TRIES > 1 else [str(rng.choice(ERRORS))]:
        for at in sorted(rng.permutation(acts)[:TRIES].tolist()):
            root = tmp_path / f"{kind}-{at}"
            root.mkdir()
            failed = server.run(
                command(name, place, root / "out"), Fault(str(root), at, kind), ISTD_CACHE=str(root / "cache")
            )
            where = f"{name}: {kind} at act {at} of {acts}"
            check_refused(failed, root, where)
            again = go_on(server, name, place, root)
            assert again.code == 0, (where, again.output)
            assert files_in(root / "out") == expected, where
            if name == "train":
                check_trained(root / "out", place.run, where)
            shutil.rmtree(root)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_cannot_grow_is_named_and_the_next_call_goes_on(
    server: FaultServer, place: Place, tmp_path: Path, name: str
) -> None:
    """Here the system refuses bytes, also to libraries that do not write through Python."""
    for limit in LIMITS[:TRIES]:
        root = tmp_path / str(limit)
        root.mkdir()
        ended = server.run(
            command(name, place, root / "out"), Fault(str(root), limit=limit), ISTD_CACHE=str(root / "cache")
        )
        if ended.code == 0 and limit > 0:
            continue  # none of its files is so large
        check_refused(ended, root, f"{name}: {limit} bytes")
        again = go_on(server, name, place, root)
        assert again.code == 0, (limit, again.output)
        if name == "train":
            check_trained(root / "out", place.run, f"{limit} bytes")
        shutil.rmtree(root)
