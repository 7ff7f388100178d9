"""Exported files answer as PyTorch does, at sizes and batches they were not traced with."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from istd.engine import Detector, TrainConfig, load_detector
from istd.engine.detector import make_header
from istd.errors import ConfigError, ModelError
from istd.export import (
    Deployed,
    ExportOutput,
    check_onnx,
    check_torchscript,
    describe,
    export_onnx,
    export_torchscript,
)
from istd.models import Backbone, create_model, final_logits, list_models
from istd.models.backbone import FeatureInfo, Modulate
from istd.models.output import Output

Istd = Callable[..., tuple[int, str]]
SHAPES = ((1, 17, 35),)
"""Another batch than the example's, and sizes that need padding."""


def small_model(name: str) -> Backbone:
    torch.manual_seed(0)
    model = create_model(name, mean=0.4, std=0.2)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):  # as if it had been trained
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.running_var.uniform_(0.8, 1.2)
    return model.eval()


@pytest.mark.parametrize("name", list_models())
def test_both_formats_of_every_backbone_agree_with_it_at_any_size(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = small_model(name)
    network = Deployed(model)
    x = torch.rand(*SHAPES[0][:1], 1, *SHAPES[0][1:])
    with torch.no_grad():
        torch.testing.assert_close(network(x), torch.sigmoid(final_logits(model(x))), rtol=0, atol=2e-5)
    about = describe(model, {}, 0.5, network.output)
    export_torchscript(network, tmp_path / "a.pt", about)
    assert check_torchscript(network, tmp_path / "a.pt", SHAPES).share < 1e-4
    export_onnx(network, tmp_path / "a.onnx", about)
    assert check_onnx(network, tmp_path / "a.onnx", SHAPES).share < 1e-4


class Tiny(Backbone):
    """Two convolutions at stride 2, quick to export."""

    feature_info: ClassVar[list[FeatureInfo]] = [FeatureInfo(4, 2, "one")]
    name = "tiny"

    def __init__(self) -> None:
        super().__init__(1)
        self.one, self.two = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def encode(self, x: Tensor, modulate: Modulate | None) -> list[Tensor]:
        return [self.one(x).relu()]

    def decode(self, features: Sequence[Tensor]) -> Output:
        return nn.functional.pixel_shuffle(self.two(features[0]), 2)

    def final_layers(self) -> list[nn.Conv2d]:
        return [self.two]


def tiny(gain: float = 1.0, offset: float = 0.0) -> Tiny:
    """Its logits are those of `tiny()` times `gain`, plus `offset`."""
    torch.manual_seed(0)
    model = Tiny()
    with torch.no_grad():
        model.two.weight *= gain
        model.two.bias.mul_(gain).add_(offset)
    return model


def test_the_exporter_built_on_torch_export_agrees_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    network = Deployed(tiny())
    export_onnx(network, tmp_path / "a.onnx", {}, "dynamo")
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
    assert check_onnx(network, tmp_path / "a.onnx", SHAPES).share < 1e-4


@pytest.mark.parametrize(("output", "offset"), [("logits", 0.0), ("probability", -12.0)])
def test_a_file_of_another_network_is_found_out(tmp_path: Path, output: ExportOutput, offset: float) -> None:
    """Also where the network answers less than a thousandth everywhere."""
    pytest.importorskip("onnxruntime")
    network = Deployed(tiny(offset=offset), output)
    assert output == "logits" or float(network(torch.rand(1, 1, 8, 8)).max()) < 1e-3
    wrong = (tiny(0.0, offset), tiny(1.01, offset), tiny(offset=-90.0), tiny(offset=float("nan")))
    for right, model in ((True, tiny(offset=offset)), *((False, model) for model in wrong)):
        export_torchscript(Deployed(model, output), tmp_path / "a.pt", {})
        export_onnx(Deployed(model, output), tmp_path / "a.onnx", {})
        for check, path in ((check_torchscript, "a.pt"), (check_onnx, "a.onnx")):
            if right:
                assert check(network, tmp_path / path, SHAPES).share < 1e-4
                continue
            with pytest.raises(ModelError, match="as PyTorch does"):
                check(network, tmp_path / path, SHAPES)


def test_a_network_that_always_answers_the_same_cannot_be_checked(tmp_path: Path) -> None:
    network = Deployed(tiny(0.0))
    export_torchscript(network, tmp_path / "a.pt", {})
    with pytest.raises(ModelError, match="the same to everything"):
        check_torchscript(network, tmp_path / "a.pt", SHAPES)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student file of a run."""
    config = TrainConfig(data="x", method="full")
    detector = Detector(small_model("mlclnet"), None, make_header(config, None, 0.4, 0.2))
    root = tmp_path_factory.mktemp("run")
    detector.save_student(root / "checkpoints" / "student.safetensors")
    return root


def test_the_command_writes_checks_and_describes(run: Path, istd: Istd, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    # A weight file's export, too, goes beside the run's results, not among its weights.
    code, text = istd("export", run / "checkpoints" / "student.safetensors", "--threshold", "0.3")
    assert code == 0, text
    assert "agrees with PyTorch to" in text
    model = onnx.load(run / "mlclnet.onnx")
    about = json.loads({entry.key: entry.value for entry in model.metadata_props}["istd"])
    assert about["classes"] == ["background", "target"]
    assert about["model"] == "mlclnet"
    assert about["threshold"] == 0.3
    assert about["input"]["range"] == [0.0, 1.0]
    assert about["normalisation"]["mean"] == pytest.approx([0.4] * 3)
    shape = [axis.dim_param or axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 1, "height", "width"]

    target = tmp_path / "net.pt"
    code, text = istd("export", run, "--format", "torchscript", "--logits", "--no-check", "--out", target)
    assert code == 0, text
    assert "not compared" in text
    files = {"istd.json": ""}
    loaded = torch.jit.load(target, _extra_files=files)
    assert json.loads(files["istd.json"])["output"]["name"] == "logits"
    x = torch.rand(1, 1, 30, 20)
    with torch.no_grad():
        expected = final_logits(load_detector(run).backbone(x))
        torch.testing.assert_close(loaded(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--role", "teacher"], "foundation model"),
        (["--format", "tflite"], "onnx | torchscript"),
        (["--exporter", "magic"], "trace | dynamo"),
        (["--backbone", "alclnet"], "alclnet"),
    ],
)
def test_what_cannot_be_exported_is_refused(run: Path, istd: Istd, options: list[str], message: str) -> None:
    code, text = istd("export", run, *options)
    assert code == 2
    assert message in text


def test_a_file_that_answers_otherwise_does_not_take_its_name(
    run: Path, istd: Istd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("istd.export.parity.TOLERANCE", -1.0)
    monkeypatch.setattr("istd.export.check_torchscript", partial(check_torchscript, shapes=SHAPES))
    target = tmp_path / "net.pt"
    code, text = istd("export", run, "--format", "torchscript", "--out", target)
    assert code == 2
    assert "as PyTorch does" in text
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_and_damaged_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Deployed(tiny())
    (tmp_path / "a.pt").write_bytes(b"no network")
    with pytest.raises(ModelError, match=r"a\.pt"):
        check_torchscript(network, tmp_path / "a.pt")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"bilevel-istd\[export\]"):
        export_onnx(network, tmp_path / "a.onnx", {})
    assert not (tmp_path / "a.onnx").exists()


def test_the_exported_answer_does_not_depend_on_the_example() -> None:
    network = Deployed(tiny())
    x = np.random.default_rng(0).random((2, 1, 19, 23), np.float32)
    with torch.no_grad():
        both = network(torch.from_numpy(x))
        single = torch.cat([network(torch.from_numpy(x[i : i + 1])) for i in range(2)])
    torch.testing.assert_close(both, single, rtol=0, atol=1e-6)
