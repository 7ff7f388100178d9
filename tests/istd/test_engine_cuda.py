"""What training asks of a GPU: steps that never wait for it, and the same numbers as on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_compare import assert_same
from rich.console import Console

from istd.data import SyntheticDataset, load_names, pack
from istd.engine import RunFolder, TrainConfig, Trainer, load_state
from istd.engine.averaging import WeightAverage
from istd.engine.batches import open_stream
from istd.engine.detector import build_model, to_fast_layout
from istd.engine.features import live_features
from istd.engine.methods import Full, Method, SemanticPrior
from istd.engine.runtime import autocast, deterministic
from istd.labels import LabelStore, SparseLabel, SparseLabels
from istd.ragged import ImageSource

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def train(
    device: str, name: str, precision: str, quiet_steps: int
) -> tuple[Method, WeightAverage, list[float]]:
    """Three steps, and `quiet_steps` more in which waiting for a GPU is an error."""
    made = SyntheticDataset(num_train=8, num_val=0, num_test=0, size=(40, 48), seed=1)
    images = load_names(made, made.splits["train"]).to(device)
    options: dict[str, Any] = {"method": name, "vfm": "none", "hypergradient": "off", "precision": precision}
    config = TrainConfig(data="", crop=32, batch_size=4, **options)
    torch.manual_seed(0)
    model = to_fast_layout(build_model(config, None, 0.3, 0.2).to(device))
    method: Method = Full(config, model) if name == "full" else SemanticPrior(config, model, 2)  # type: ignore[arg-type]
    average = WeightAverage(model, 0.9)
    clusters = torch.arange(len(images), device=device) % 2
    assert images.masks is not None
    labels: ImageSource = images.masks
    if name != "full":  # as in a run that learns from points
        masks = (labels.image(number).cpu().numpy() for number in range(len(labels)))
        labels = SparseLabels(map(SparseLabel.of, masks), device)
    stream = open_stream("train", config, images, labels, None, clusters, live_features(None))
    losses = []
    with deterministic():
        try:
            for step in range(3 + quiet_steps):
                if step == 3 and device != "cpu":
                    torch.cuda.set_sync_debug_mode("error")
                batch = stream.batch(step)
                with autocast(precision, batch.image.device):
                    losses.append(method.train_step(batch))
                average.update()
        finally:
            if device != "cpu":
                torch.cuda.set_sync_debug_mode("default")
    return method, average, torch.stack(losses).tolist()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["full", "semantic-prior"])
def test_a_training_step_never_waits_for_the_gpu(name: str, precision: str) -> None:
    method, average, losses = train("cuda", name, precision, quiet_steps=4)
    assert torch.isfinite(torch.tensor(losses)).all()
    assert method.optimizer.param_groups[0]["fused"] is True  # type: ignore[attr-defined]
    assert int(average.state_dict()["n_averaged"]) == 7


class Stopped(Trainer):
    """Gives up in the second epoch, when its second step has been saved."""

    def _save(self) -> None:
        super()._save()
        if (self.position.epoch, self.position.step) == (1, 2):
            raise KeyboardInterrupt


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("hypergradient", ["gauss-newton", "unrolled"])
def test_runs_repeat_and_resume_bit_for_bit(
    tmp_path: Path, hypergradient: str, precision: str, without_pictures: None
) -> None:
    data = tmp_path / "data.h5"
    pack(SyntheticDataset(num_train=8, num_val=4, num_test=4, size=(40, 48), seed=3), data)
    settings: dict[str, Any] = {"evolve_every": 1, "evolve_start": 0.0, "outer_every": 1, "outer_steps": 1}
    settings |= {
        "epochs": 3,
        "crop": 32,
        "batch_size": 4,
        "vfm": "random:test_vit",
        "clusters": 2,
        "ema": 0.9,
    }
    settings |= {"hypergradient": hypergradient, "precision": precision, "checkpoint_seconds": 0.0}
    config = TrainConfig(data=str(data), device="cuda", **settings)
    quiet = Console(quiet=True)
    for name in ("one", "two"):
        Trainer(config, tmp_path / name, console=quiet).fit()
    with pytest.raises(KeyboardInterrupt):
        Stopped(config, tmp_path / "stopped", console=quiet).fit()
    Trainer(None, tmp_path / "stopped", resume=True, console=quiet).fit()
    first, *others = (left_by(RunFolder(tmp_path / name)) for name in ("one", "two", "stopped"))
    for other in others:
        assert_same(other, first)


def left_by(folder: RunFolder) -> dict[str, Any]:
    """All that a run leaves, but for how long it took."""
    state = load_state(folder.checkpoint, kind="run")
    results = json.loads(folder.results.read_text())
    del state["position"]["seconds"]
    return {
        "state": state,
        "labels": LabelStore.open(folder.labels).labels(),
        "weights": [load_state(folder.weights(role), kind=role) for role in ("student", "teacher")],
        "metrics": results["metrics"],
    }


def test_losses_are_those_of_the_cpu() -> None:
    found, expected = (train(device, "semantic-prior", "float32", 0)[2] for device in ("cuda", "cpu"))
    assert found == pytest.approx(expected, rel=0.1)  # Adam enlarges what convolutions in TF32 round off
    assert found[0] == pytest.approx(expected[0], rel=2e-3)
