"""Runs on a pretended GPU (`pretend_gpu.py`): no two devices meet, and the numbers are those of the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_engine_cuda
import torch
import torch.nn.functional as F
from pretend_gpu import OnGPU, pretend_gpu
from rich.console import Console

from istd.data import SyntheticDataset, pack
from istd.engine import RunFolder, TrainConfig, Trainer, load_state
from istd.engine.runtime import deterministic
from istd.labels import LabelStore
from istd.models import create_model, final_logits

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.h5"
    pack(SyntheticDataset(num_train=3, num_val=1, num_test=1, size=(32, 36), seed=3), path)
    return path


def settings(data: Path) -> dict[str, Any]:
    every: dict[str, Any] = {"epochs": 2, "crop": 16, "batch_size": 3, "precision": "float64", "ema": 0.9}
    every |= {"evolve_every": 1, "evolve_start": 0.0, "distractor_fraction": 0.2, "eval_every": 2}
    every |= {"vfm": "random:test_vit", "vfm_cache": "full-image", "label_fall": "follow"}
    every |= {"clusters": 2, "outer_every": 2, "outer_steps": 1}
    return {"data": str(data), **every}


def left_by(root: Path) -> tuple[list[torch.Tensor], list[np.ndarray], Any]:
    """Weights, labels and metrics."""
    folder = RunFolder(root)
    weights = load_state(folder.student, kind="student")["weights"]
    labels = LabelStore.open(folder.labels).labels() if folder.labels.exists() else []
    return list(weights.values()), labels, json.loads(folder.results.read_text())["metrics"]


def assert_close(found: Path, expected: Path) -> None:
    """Interpolation differs in the last bits, and with it all that follows."""
    (weights, labels, metrics), (its_weights, its_labels, its_metrics) = left_by(found), left_by(expected)
    torch.testing.assert_close(weights, its_weights, rtol=1e-6, atol=1e-9)
    for mine, other in zip(labels, its_labels, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-6)
    assert metrics["test"]["student"] == pytest.approx(its_metrics["test"]["student"])


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_a_run_is_that_of_the_cpu(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTD_CACHE", str(tmp_path / "cache"))
    config = settings(data)
    Trainer(TrainConfig(**config, device="cpu"), tmp_path / "cpu", console=QUIET).fit()
    with pretend_gpu():
        Trainer(TrainConfig(**config, device="cuda"), tmp_path / "gpu", console=QUIET).fit()
    assert json.loads((tmp_path / "gpu" / "results.json").read_text())["device"] == "cuda"
    assert_close(tmp_path / "gpu", tmp_path / "cpu")


@pytest.mark.parametrize("name", ["full", "semantic-prior"])
def test_a_training_step_waits_for_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test for a real GPU, on the pretended one."""
    with pretend_gpu() as gpu:
        seen: list[list[str]] = []

        def look(mode: str) -> None:
            if mode == "default":
                seen.append(list(gpu.waits))
            gpu.waits.clear()

        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", look)
        losses = test_engine_cuda.train("cuda", name, "float32", quiet_steps=2)[2]
    assert seen == [[]]
    assert losses == pytest.approx(test_engine_cuda.train("cpu", name, "float32", 2)[2], rel=1e-2)


@pytest.mark.parametrize("name", ["alclnet", "gglnet", "mlclnet"])
def test_interpolation_is_by_products_where_kernels_must_repeat_themselves(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's own would be differentiated by sorting."""
    theirs, seen = F.interpolate, []

    def interpolate(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if isinstance(x, OnGPU):
            seen.append(options.get("mode"))
        return theirs(x, *arguments, **options)

    monkeypatch.setattr(F, "interpolate", interpolate)
    with pretend_gpu(), deterministic(), torch.no_grad():
        answer = final_logits(create_model(name).eval().to("cuda")(torch.rand(1, 1, 32, 16).to("cuda")))
        assert answer.device.type == "cuda"
    assert set(seen) <= {"nearest"}
