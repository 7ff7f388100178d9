"""The moving average of the weights, and networks in half precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from istd.data import SyntheticDataset, pack
from istd.engine import RunFolder, TrainConfig, Trainer, load_state
from istd.engine.averaging import WeightAverage
from istd.engine.runtime import autocast
from istd.models import create_model, final_logits

pytestmark = pytest.mark.usefixtures("without_pictures")


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).double()


def test_the_average_is_the_recurrence_and_training_does_not_see_it() -> None:
    torch.manual_seed(0)
    model, decay = net(), 0.7
    average = WeightAverage(model, decay)
    expected: dict[str, torch.Tensor] = {}
    for n in range(12):
        with torch.no_grad():
            for value in model.state_dict().values():
                if value.is_floating_point():
                    value.add_(torch.randn_like(value))
        model[1].num_batches_tracked.fill_(n)
        average.update()
        d = min(decay, (1 + n) / (10 + n))
        for name, value in model.state_dict().items():
            old = expected.get(name)
            exact = value if old is None or not value.is_floating_point() else d * old + (1 - d) * value
            expected[name] = exact.clone()
    found = average.model.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found["0.weight"], model.state_dict()["0.weight"])


def test_an_average_goes_on_from_its_state() -> None:
    torch.manual_seed(1)
    model = net()
    first, second = WeightAverage(model, 0.9), WeightAverage(model, 0.9)
    for average, rounds in ((first, 5), (second, 0)):
        for _ in range(rounds):
            average.update()
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    nn.init.ones_(model[0].weight)
    first.update()
    second.update()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.parametrize("method", ["full", "semantic-prior"])
def test_the_average_is_what_is_kept(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setenv("ISTD_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data.h5"
    pack(SyntheticDataset(num_train=6, num_val=2, num_test=2, size=(40, 40), seed=1), data)
    config = TrainConfig(
        data=str(data),
        method=method,
        vfm="random:test_vit",
        epochs=2,
        crop=32,
        batch_size=3,
        clusters=2,
        ema=0.9,
        precision="bfloat16",
        selection="last",
    )
    results = Trainer(config, tmp_path / "run").fit()
    folder = RunFolder(tmp_path / "run")
    state = load_state(folder.checkpoint, kind="run")
    kept = load_state(folder.student, kind="student")["weights"]
    prefix = "module.student." if method == "semantic-prior" else "module."
    averaged = {
        name.removeprefix(prefix): value
        for name, value in state["average"].items()
        if name.startswith(prefix)
    }
    assert kept.keys() <= averaged.keys()
    for name, value in kept.items():
        assert torch.equal(value, averaged[name]), name
        assert value.dtype in (torch.float32, torch.int64), name
    assert int(state["average"]["n_averaged"]) == 4
    assert results["config"]["precision"] == "bfloat16"


def test_half_precision_is_near_full_precision_and_leaves_weights_alone() -> None:
    torch.manual_seed(0)
    model, image = create_model("mlclnet").eval(), torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        exact = final_logits(model(image))
        with autocast("bfloat16", image.device):
            half = final_logits(model(image))
        with autocast("float32", image.device):
            same = final_logits(model(image))
    assert half.dtype is torch.bfloat16
    assert torch.equal(same, exact)
    assert 0 < float((half.float() - exact).norm() / exact.norm()) < 0.05
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())
