"""Files of results say how to make them again: what they say is run, and gives the same figures."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

import istd.engine
from istd import _provenance
from istd._provenance import code_version, provenance, with_threads
from istd.data import SyntheticDataset, open_dataset, pack, write_synthetic
from istd.engine import TrainConfig, Trainer
from istd.engine.config import setting_choices
from istd.engine.train_command import train_command
from istd.report import write_report

Istd = Callable[..., tuple[int, str]]
KEYS = {"command", "code", "versions", "machine", "threads", "determinism"}
SETTINGS: dict[str, Any] = {"method": "pal", "epochs": 2, "crop": 32, "batch_size": 4, "seed": 3}
METHODS = ("semantic-prior", "pal", "lesps", "full")
MORE: dict[str, Any] = {"lr": 2.5e-3, "lr_schedule": "step", "lr_milestones": (0.5,), "prior": None}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, without_pictures: None) -> Path:
    """A run begun from Python, by a person whose folders have spaces in their names."""
    root = tmp_path_factory.mktemp("with spaces")
    write_synthetic(
        SyntheticDataset(num_train=6, num_val=2, num_test=2, size=(32, 40), seed=3), root / "data"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISTD_CACHE", str(root / "cache"))
        config = TrainConfig(data=str(root / "data"), evolve_every=1, evolve_start=0.0, **SETTINGS, **MORE)
        Trainer(config, root / "run", console=Console(quiet=True)).fit()
    return root / "run"


def read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    assert isinstance(content, dict)
    return content


def words_of(command: str) -> list[str]:
    """What a command line of ours gives to `istd`."""
    words = shlex.split(command.rpartition(" && ")[2])
    assert words[:2] == [f"OMP_NUM_THREADS={torch.get_num_threads()}", "istd"]
    return words[2:]


@pytest.mark.slow
def test_the_command_of_a_run_gives_its_figures_in_a_shell(run: Path, tmp_path: Path) -> None:
    first = read(run / "results.json")
    assert first.keys() >= KEYS
    assert first["determinism"]["algorithms"] == "warn"
    assert first["determinism"]["cudnn_benchmark"] is False
    assert first["seed"] == 3
    assert first["threads"] == torch.get_num_threads()
    program = tmp_path / "istd"
    program.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "from istd.cli import main; main()" "$@"\n'
    )
    program.chmod(0o755)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("OMP_")},
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(istd.engine.__file__).parents[2]),
        "ISTD_CACHE": str(tmp_path / "cache"),
    }
    command = f"{first['command']} --out {shlex.quote(str(tmp_path / 'again'))}"
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    again = read(tmp_path / "again" / "results.json")
    same = ("metrics", "labels", "selection", "split_hash", "data_hash", "seed", "convention", "images")
    for key in (*same, "command", "code", "versions", "threads"):
        assert again[key] == first[key], key
    assert (tmp_path / "again" / "per_image.csv").read_text() == (run / "per_image.csv").read_text()


def test_what_evaluation_and_labels_and_answers_say_can_be_run(
    run: Path, istd: Istd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    monkeypatch.setenv("ISTD_CACHE", str(run.parent / "cache"))
    folder = tmp_path / "out"
    for arguments, name, figures in (
        (["eval", "run", "--split", "val"], "metrics.json", "student_per_image.csv"),
        (["labels", "run", "--no-gif", "--count", "1"], "provenance.json", "versions.csv"),
        (["predict", "run", "data/images", "--save", "masks"], "provenance.json", "targets.json"),
    ):
        out = folder / arguments[0]
        code, text = istd(*arguments, "--out", out)
        assert code == 0, text
        about, expected = read(out / name), (out / figures).read_bytes()
        assert about.keys() >= KEYS, arguments
        assert about["command"].startswith(f"cd {shlex.quote(str(run.parent))} && ")
        (out / figures).unlink()
        code, text = istd(*words_of(about["command"]))
        assert code == 0, text
        assert (out / figures).read_bytes() == expected
        assert {**read(out / name), "command": ""} == {**about, "command": ""}
    found, trained = read(folder / "eval" / "metrics.json"), read(run / "results.json")
    for key in ("split_hash", "data_hash", "seed", "convention", "code", "versions"):
        assert found[key] == trained[key], key
    assert found["metrics"]["val"]["student"] == trained["metrics"]["val"]["student"]
    assert found["weights"]["student"] == read(folder / "predict" / "provenance.json")["weights"]["student"]


def another(name: str, value: Any) -> Any:
    """A valid value of a setting other than the one it has."""
    choices = [choice for choice in setting_choices(name) if choice not in (value, "learned")]
    if choices:
        return choices[-1]
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (0.25, 1 / 3)
    if isinstance(value, float):
        return value / 3 + 0.1
    if value is None:
        return 0.5 if name in ("contrast_fraction", "modulation_scale") else 17
    return value + 1


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What trainers are asked for instead of training."""
    seen: list[dict[str, Any]] = []

    def stop(config: TrainConfig, out: Path, **options: Any) -> None:
        seen.append({"config": config, "command": options.get("command")})
        raise KeyboardInterrupt

    # By name: a fixture of these tests is named like the package.
    monkeypatch.setattr(sys.modules["istd.engine"], "Trainer", stop)
    return seen


def test_every_setting_is_part_of_the_command(
    istd: Istd, tmp_path: Path, asked_for: list[dict[str, Any]]
) -> None:
    """The command line, read by `istd train` itself, is the configuration again."""
    plain = TrainConfig(data=str(tmp_path / "some data"))
    configs = [
        dataclasses.replace(plain, lr=0.25),
        *(TrainConfig(data=plain.data, method=m) for m in METHODS),
    ]
    for item in dataclasses.fields(TrainConfig):
        if item.name not in ("data", "method", "device", "hypergradient"):
            value = {"backbone": "alclnet", "vfm": "random:test_vit"}.get(item.name)
            value = another(item.name, getattr(plain, item.name)) if value is None else value
            configs.append(dataclasses.replace(plain, **{item.name: value}))
    for config in configs:
        code, text = istd(*words_of(train_command(config)))
        assert code == 130, text
        assert asked_for[-1]["config"] == config
    assert train_command(plain).endswith("--device auto"), "settings that are the defaults are left out"
    assert words_of(train_command(plain, torch.device("cpu")))[-1] == "cpu"


def test_a_demo_is_made_again_with_its_images(
    istd: Istd, tmp_path: Path, asked_for: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["istd.data"], "pack", lambda *arguments: None)
    given = ["--method", "full", "--epochs", 1, "--seed", 5, "--device", "cpu"]
    for words in (["demo", *given], None):
        istd(*(words_of(asked_for[-1]["command"]) if words is None else words), "--out", tmp_path)
    first, again = asked_for
    assert words_of(first["command"])[0] == "demo"
    assert again == first


def test_a_report_says_how_each_run_is_made(run: Path, tmp_path: Path) -> None:
    results = read(run / "results.json")
    write_report([run], tmp_path / "report.html", command="istd report a & b")
    page = (tmp_path / "report.html").read_text()
    assert "How to make run again" in page
    assert "--set lr=0.0025" in page
    assert results["data_hash"] in page
    assert "istd report a &amp; b" in page


def test_the_fingerprint_of_data_follows_pixels_masks_and_points_but_not_files(tmp_path: Path) -> None:
    made = SyntheticDataset(num_train=3, num_val=1, num_test=1, size=(32, 40), seed=1)
    write_synthetic(made, tmp_path / "folder")
    folder = open_dataset(tmp_path / "folder")
    assert folder.content_hash() == made.content_hash() == pack(made, tmp_path / "a.h5").content_hash()
    name = folder.splits["test"][0]
    kinds = {}
    for part in ("images", "masks"):
        (path,) = (tmp_path / "folder" / part).glob(f"{name}*")
        good = path.read_bytes()
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert pixels is not None
        pixels[0, 0] = 255 if pixels[0, 0] == 0 else 0
        cv2.imwrite(str(path), pixels)
        kinds[part] = open_dataset(tmp_path / "folder").content_hash()
        path.write_bytes(good)
    assert len({folder.content_hash(), *kinds.values()}) == 3
    # One pixel more in a mask moves its target's centroid too; a point alone:
    record = made.read(name)
    moved = dataclasses.replace(record, points=np.roll(record.points, 1))
    made._read = lambda one: moved if one == name else SyntheticDataset._read(made, one)  # type: ignore[method-assign]
    assert made.content_hash() != folder.content_hash()


def test_code_is_named_by_its_commit_only_in_its_own_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        named = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *named, *words], check=True, capture_output=True)

    installed = tmp_path / "lib" / "_provenance.py"
    installed.parent.mkdir()
    installed.write_text("one")
    (tmp_path / "own.txt").write_text("two")
    try:
        git("init")
        git("add", "own.txt")
        git("commit", "-m", "a")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    monkeypatch.setattr(_provenance, "__file__", str(installed))
    found = []
    for change in (
        lambda: None,
        lambda: (git("add", "lib"), git("commit", "-m", "b")),
        lambda: installed.write_text("c"),
    ):
        change()
        code_version.cache_clear()
        found.append(code_version())
    code_version.cache_clear()
    assert found[0]["commit"] is None
    assert found[0]["dirty"] is None
    assert re.fullmatch("[0-9a-f]{40}", found[1]["commit"])
    assert found[1]["dirty"] is False
    assert found[2] == {**found[1], "dirty": True}


def test_what_is_noted_of_a_machine_holds_no_names_and_no_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    about = provenance(with_threads(["istd", "a b"]))
    assert about["command"] == f"OMP_NUM_THREADS={torch.get_num_threads()} istd 'a b'"
    assert about["machine"]["environment"]["OMP_WAIT_POLICY"] == "ACTIVE"
    text = json.dumps({**about, "command": ""})
    assert os.uname().nodename not in text.replace(about["machine"]["system"], "")
    assert str(Path.home()) not in text
