"""Files that were damaged on the disk: named, or read as what was written; never another answer.

`ISTD_DAMAGES` is how many damages are tried on each kind of file (20 unless it is set), `ISTD_DAMAGES_SEED`
which ones (0).
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from fault_compare import assert_same

from istd._files import sealed, write_json
from istd.data import PackedDataset, SyntheticDataset, pack, read_gray, read_mask, write_points
from istd.data.pointfiles import read_points
from istd.engine import TrainConfig, load_state, save_state
from istd.engine.prediction_log import PredictionLog
from istd.engine.results import RESULTS_VERSION
from istd.engine.run_folder import RunFolder, read_lines
from istd.engine.run_state import check_config
from istd.errors import CheckpointError, IstdError
from istd.labels import LabelStore
from istd.report.collect import read_run
from istd.targets import ImageTargets, list_targets

TRIES = int(os.environ.get("ISTD_DAMAGES", "20"))
SEED = int(os.environ.get("ISTD_DAMAGES_SEED", "0"))
SECTOR = 512


@contextmanager
def bounded_memory(more: int = 2**30) -> Iterator[None]:
    """The block may take so many bytes more than the process has: a damaged header must not ask for any."""
    if sys.platform != "linux":
        yield
        return
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with a flipped bit, cut short, with a sector of zeros or noise, or with a piece lost."""
    at = int(rng.integers(len(data)))
    match int(rng.integers(8)):
        case 0 | 1 | 2 | 3:
            return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]
        case 4:
            return data[:at]
        case 5:
            start = at // SECTOR * SECTOR
            return data[:start] + bytes(len(data[start : start + SECTOR])) + data[start + SECTOR :]
        case 6:
            start = at // SECTOR * SECTOR
            return data[:start] + rng.bytes(len(data[start : start + SECTOR])) + data[start + SECTOR :]
        case _:
            return data[:at] + data[at + int(rng.integers(1, 9)) :]


def try_damages(
    path: Path, read: Callable[[], Any], *, checked: bool, error: type[IstdError] = IstdError
) -> None:
    """Damage a file again and again: a named error or, if `checked`, what was written is read."""
    good, expected = path.read_bytes(), read()
    refused = 0
    for number in range(TRIES):
        data = damaged(good, np.random.default_rng([number, len(good), SEED]))
        path.write_bytes(data)
        try:
            with bounded_memory():
                found = read()
        except error as caught:
            named = path.name in str(caught)
            refused += 1
        else:
            named = True
            if checked:
                assert_same(found, expected, f"damage {number}")
        assert named, f"damage {number} is refused without a name"
    path.write_bytes(good)
    assert_same(read(), expected)
    if checked:
        assert refused > TRIES / 4, "so few damages were noticed that the test looks at something else"


STATE = {
    "weights": {"a": torch.arange(300.0), "b": torch.ones(2, 3, dtype=torch.bfloat16), "n": torch.tensor(3)},
    "pairs": {0: {"step": torch.tensor(1.5)}},
    "position": {"epoch": 3, "losses": [0.1, 2.5], "pair": (1, None)},
    "flags": torch.tensor([True, False]),
    "none": torch.zeros(0, 4),
}


@pytest.mark.parametrize("kind", ["run", "student"])
def test_checkpoints_and_weights(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.safetensors"
    save_state(path, STATE, kind=kind)
    try_damages(path, lambda: load_state(path, kind=kind), checked=True, error=CheckpointError)


def everything_in(path: Path) -> list[Any]:
    dataset = PackedDataset(path)
    records = [vars(dataset.read(name)) for name in dataset.names]
    return [dict(dataset.splits), dataset.source_layout, sorted(dataset.unannotated), records]


def test_packed_datasets(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    pack(SyntheticDataset(num_train=3, num_val=1, num_test=1, size=(32, 40), seed=1), path)
    try_damages(path, lambda: everything_in(path), checked=True)


def test_label_stores(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "labels.h5"
    sizes = [(12, 9), (8, 20)]
    labels = [rng.random(size, np.float32) * (rng.random(size) > 0.8) for size in sizes]
    store = LabelStore.create(path, ["a", "b"], labels, settings={"how": "by hand"}, note="first")
    store.commit(1, {"a": labels[0] * np.float32(0.5)}, pool=[True, False], note="second")

    def read() -> list[Any]:
        store = LabelStore.open(path)
        versions = [(vars(one), store.pool(one.number), store.labels(one.number)) for one in store.history()]
        return [store.settings, store.names, store.sizes, versions]

    try_damages(path, read, checked=True)


def scene() -> tuple[np.ndarray, np.ndarray]:
    dataset = SyntheticDataset(num_train=1, num_val=0, num_test=0, size=(32, 40), seed=2)
    record = dataset.read(dataset.names[0])
    assert record.mask is not None
    return record.image, record.mask.astype(np.uint8) * 255


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "checked"),
    [("a.png", True), ("deep.png", True), ("a.jpg", False), ("a.bmp", False), ("a.tif", False)],
)
def test_images(tmp_path: Path, name: str, checked: bool) -> None:
    image, path = scene()[0], tmp_path / name
    cv2.imwrite(str(path), image.astype(np.uint16) * 50 if name.startswith("deep") else image)
    try_damages(path, lambda: read_gray(path), checked=checked)


def test_masks(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), scene()[1])
    try_damages(path, lambda: read_mask(path), checked=True)


@pytest.mark.parametrize("name", ["points.csv", "points.json"])
def test_points(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    names = [f"Misc_{number}" for number in range(9)]
    write_points(path, {name: np.array([[number, 2 * number]]) for number, name in enumerate(names)})
    try_damages(path, lambda: read_points(path, names), checked=False)


def run_folder(root: Path) -> RunFolder:
    """A folder as a finished run leaves it."""
    folder = RunFolder(root)
    folder.start(TrainConfig(data="data.h5", method="full"))
    metrics = dict.fromkeys(("iou", "niou", "pd", "fa", "precision", "recall", "f1"), 0.625)
    results = {
        "version": RESULTS_VERSION,
        "metrics": {"test": {"student": metrics}},
        "convention": {"threshold": 0.5},
        "split_hash": "0123",
        "config": folder.read_config().to_dict(),
        "selection": {"rule": "val-masks", "epoch": 3, "score": 0.5},
        "images": {"train": 3, "val": 1, "test": 1},
    }
    write_json(folder.results, sealed(results))
    folder.log.write_text(
        "".join(json.dumps({"event": "epoch", "epoch": n, "loss": 0.5}) + "\n" for n in range(9))
    )
    return folder


def test_results(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    try_damages(folder.results, lambda: read_run(tmp_path).results, checked=True, error=CheckpointError)


def test_logs(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    try_damages(folder.log, lambda: list(read_lines(folder.log)), checked=False)


def test_configurations(tmp_path: Path) -> None:
    """A run knows its configuration besides; what differs is named when it goes on."""
    folder = run_folder(tmp_path)
    began = folder.read_config().to_dict()

    def read() -> dict[str, Any]:
        now = folder.read_config().to_dict()
        check_config(began, now, folder.config)
        return {
            key: value
            for key, value in now.items()
            if key not in ("data", "vfm", "vfm_cache_gb", "memory_gb", "device", "checkpoint_seconds")
        }

    try_damages(folder.config, read, checked=True)


def test_answers(tmp_path: Path) -> None:
    """A damaged answer of `istd predict --skip-existing` is made again."""
    source, path = tmp_path / "a.png", tmp_path / "predictions.jsonl"
    source.write_bytes(b"an image")
    log = PredictionLog(path, {"threshold": 0.5}, resume=False)
    answers: list[ImageTargets] = []
    for number in range(5):
        probability = np.zeros((9, 9), np.float32)
        probability[number, 2:5] = 0.75
        answers.append(
            ImageTargets(f"a{number}", str(source), 9, 9, tuple(list_targets(probability, 0.5, 8, 1)))
        )
        log.add(source, answers[-1])
    good = path.read_bytes()

    def read() -> list[ImageTargets]:
        path.write_bytes(data)
        log = PredictionLog(path, {"threshold": 0.5}, resume=True)
        return [log.find(answer.name, source) or answer for answer in answers]

    for number in range(TRIES):
        data = damaged(good, np.random.default_rng([number, SEED]))
        named = True
        try:
            found = read()
        except IstdError as error:
            found, named = answers, path.name in str(error)
        assert named, f"damage {number}"
        assert found == answers, f"damage {number}"


class FrozenStub(torch.nn.Module):
    """All that the cache of hidden maps asks of a frozen model."""

    fingerprint, patch_size, num_layers, embed_dim, name = "stub", (4, 4), 2, 3, "stub"

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Conv2d(1, 6, 4, stride=4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.model(image).unflatten(1, (2, 3))


def test_cached_hidden_maps_are_made_again(tmp_path: Path) -> None:
    from istd.models.vfm_cache import VFMCache

    torch.manual_seed(0)
    cache = VFMCache(tmp_path, FrozenStub(), 2**24, least=(16, 16))  # type: ignore[arg-type]
    image = torch.randint(0, 256, (20, 24), dtype=torch.uint8)
    cache.fill([image])
    path = cache.path(image)
    expected, good = cache.compute(image), path.read_bytes()
    for number in range(TRIES):
        path.write_bytes(damaged(good, np.random.default_rng([number, SEED])))
        with bounded_memory():
            found = cache.window(image, path, 0, 0, *expected.shape[2:])
        assert torch.equal(found, expected), f"damage {number}"
