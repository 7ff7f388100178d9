"""What the commands read, damaged: images, packed data and weights, for training, evaluation and answers.

Each time the file is named, nothing is a traceback, and what is whole is used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from istd.data import SyntheticDataset, open_dataset, pack, write_synthetic
from istd.engine import RunFolder, TrainConfig, Trainer
from istd.engine.run_state import previous_path

Istd = Callable[..., tuple[int, str]]
TINY = ("--method", "full", "--epochs", 2, "--crop", 32, "--batch-size", 4)


def changed(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda data: data[: len(data) // 2],
    "a byte": changed,
    "empty": lambda data: b"",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, without_pictures: None) -> Path:
    """A folder of images, the same packed, and a run on the packed ones."""
    root = tmp_path_factory.mktemp("made")
    write_synthetic(
        SyntheticDataset(num_train=4, num_val=2, num_test=2, size=(40, 48), seed=3), root / "data"
    )
    pack(open_dataset(root / "data"), root / "data.h5")
    config = TrainConfig(data=str(root / "data.h5"), method="full", epochs=2, crop=32, batch_size=4)
    Trainer(config, root / "run", console=Console(quiet=True)).fit()
    return root


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to damage."""
    shutil.copytree(made, tmp_path / "made")
    monkeypatch.setenv("ISTD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "made")
    return tmp_path / "made"


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_named(place: Path, istd: Istd, damage: str) -> None:
    run = RunFolder(place / "run")
    image = min((place / "data" / "images").glob("test_*"))
    train = ("train", "--data", "data", *TINY, "--out", "new")
    cases: tuple[tuple[Path, tuple[object, ...], int], ...] = (
        (image, train, 2),
        (image, ("eval", "run", "--data", "data"), 2),
        (image, ("predict", "run", "data/images", "--out", "answers"), 1),
        (place / "data.h5", ("train", "--data", "data.h5", *TINY, "--out", "new"), 2),
        (place / "data.h5", ("eval", "run", "--data", "data.h5"), 2),
        (run.student, ("eval", "run", "--data", "data.h5"), 2),
        (run.student, ("predict", "run", "data/images", "--out", "answers"), 2),
    )
    for path, arguments, expected in cases:
        good = path.read_bytes()
        path.write_bytes(DAMAGES[damage](good))
        code, text = istd(*arguments)
        assert code == expected, (arguments, text)
        assert path.stem in text, (arguments, text)
        assert "Traceback" not in text, arguments
        assert not (place / "new").exists() or not RunFolder(place / "new").config.exists(), arguments
        path.write_bytes(good)
    answered = {path.stem for path in (place / "answers" / "masks").iterdir()}
    assert answered == {path.stem for path in image.parent.iterdir()} - {image.stem}


def figures(run: RunFolder) -> dict[str, Any]:
    results = json.loads(run.results.read_text())
    return {key: value for key, value in results.items() if key not in ("seconds", "sha256")}


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_two_are_named(
    place: Path, istd: Istd, without_pictures: None
) -> None:
    run = RunFolder(place / "run")
    first = figures(run)
    run.checkpoint.write_bytes(changed(run.checkpoint.read_bytes()))
    code, text = istd("train", "--resume", "--out", "run")
    assert code == 0, text
    assert run.checkpoint.name in text
    assert figures(run) == first
    for path in (run.checkpoint, previous_path(run.checkpoint)):
        path.write_bytes(DAMAGES["cut short"](path.read_bytes()))
    code, text = istd("train", "--resume", "--out", "run")
    assert code == 2
    assert run.checkpoint.name in text
    assert figures(run) == first, "what there was is still there"
