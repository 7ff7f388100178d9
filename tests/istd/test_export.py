"""Exported files answer as PyTorch does, at sizes and batches they were not traced with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from istd.engine import Detector, TrainConfig, load_detector
from istd.engine.detector import make_header
from istd.errors import ConfigError, ModelError
from istd.export import Deployed, check_onnx, check_torchscript, describe, export_onnx, export_torchscript
from istd.models import Backbone, create_model, final_logits, list_models

Istd = Callable[..., tuple[int, str]]
SHAPES = ((1, 32, 32), (2, 17, 35))


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
    x = torch.rand(1, 1, 21, 38)
    with torch.no_grad():
        torch.testing.assert_close(network(x), torch.sigmoid(final_logits(model(x))), rtol=0, atol=2e-5)
    about = describe(model, {}, 0.5, network.output)
    export_torchscript(network, tmp_path / "a.pt", about)
    assert check_torchscript(network, tmp_path / "a.pt", SHAPES).difference < 1e-5
    export_onnx(network, tmp_path / "a.onnx", about)
    assert check_onnx(network, tmp_path / "a.onnx", SHAPES).difference < 1e-4


@pytest.mark.slow
def test_the_exporter_built_on_torch_export_agrees_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    network = Deployed(small_model("mlclnet"), "logits")
    export_onnx(network, tmp_path / "a.onnx", {}, "dynamo")
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
    assert check_onnx(network, tmp_path / "a.onnx", SHAPES).difference < 1e-4


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
    code, text = istd("export", run, "--threshold", "0.3")
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
    target = tmp_path / "net.pt"
    code, text = istd("export", run, "--format", "torchscript", "--out", target)
    assert code == 2
    assert "as PyTorch does" in text
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_and_damaged_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Deployed(small_model("mlclnet"))
    (tmp_path / "a.pt").write_bytes(b"no network")
    with pytest.raises(ModelError, match=r"a\.pt"):
        check_torchscript(network, tmp_path / "a.pt")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"bilevel-istd\[export\]"):
        export_onnx(network, tmp_path / "a.onnx", {})
    assert not (tmp_path / "a.onnx").exists()


def test_the_exported_answer_does_not_depend_on_the_example() -> None:
    network = Deployed(small_model("mlclnet"))
    x = np.random.default_rng(0).random((2, 1, 19, 23), np.float32)
    with torch.no_grad():
        both = network(torch.from_numpy(x))
        single = torch.cat([network(torch.from_numpy(x[i : i + 1])) for i in range(2)])
    torch.testing.assert_close(both, single, rtol=0, atol=1e-6)
