"""The backbones against recordings of their authors' code, and what each has of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_recipe import fill, image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from istd.errors import ModelError
from istd.losses import inner_loss
from istd.models import (
    SCAM,
    Backbone,
    DeepOutput,
    RepISDNet,
    TeacherStudent,
    all_logits,
    convert_reference_state_dict,
    create_model,
    final_logits,
    list_models,
)
from istd.models.gglnet import gradient_magnitude
from istd.models.repisdnet import average_pool

NAMES = ["gglnet", "mshnet", "repisdnet", "dnanet", "sctransnet"]
# Strides of the auxiliary maps.
AUXILIARY = {"mshnet": [1, 2, 4, 8], "dnanet": [1, 1, 1], "sctransnet": [1, 1, 1, 1, 1]}


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    """Recorded once in float64 from the public code, with weights and image made by model_recipe.

    GGL-Net, MSHNet, DNANet, SCTransNet: github.com/YuChuang1205/PAL at e89262f, which holds the authors' own
    networks without their sigmoids; RepISD-Net: github.com/dalinlin-Wu/RepISD-Net at 490fc46, without its
    sigmoid and dropout, second map. Per network: names and shapes of the weights in their order, the answer
    in evaluation mode, mean and root mean square of all outputs (the answer first) in both modes, norms of
    the gradient of Σ mean(output²) and of the buffers after one training pass.
    """
    with np.load(Path(__file__).parents[1] / "data" / "backbones_reference.npz", allow_pickle=False) as data:
        return dict(data)


def theirs(recorded: dict[str, np.ndarray], name: str) -> dict[str, Tensor]:
    """A state dict in the authors' naming."""
    shapes = (tuple(int(n) for n in str(shape).split(",") if n) for shape in recorded[f"{name}.shapes"])
    names = (str(key) for key in recorded[f"{name}.names"])
    return {key: fill(key, shape) for key, shape in zip(names, shapes, strict=True)}


def loaded(recorded: dict[str, np.ndarray], name: str) -> Backbone:
    model = create_model(name).double()
    model.load_state_dict(convert_reference_state_dict(theirs(recorded, name)))
    return model


def norms(recorded: dict[str, np.ndarray], name: str, what: str) -> Iterator[tuple[str, float]]:
    """(our name, norm) in the recorded order."""
    names, values = recorded[f"{name}.{what}_names"], recorded[f"{name}.{what}_norms"]
    renamed = convert_reference_state_dict({str(key): torch.zeros(2) for key in names})
    return zip(renamed, (float(value) for value in values), strict=True)


def statistics(output: Any) -> tuple[np.ndarray, np.ndarray]:
    maps = [map.detach() for map in all_logits(output)]
    mean = np.array([float(map.mean()) for map in maps])
    return mean, np.array([float(map.square().mean().sqrt()) for map in maps])


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_the_authors_code(recorded: dict[str, np.ndarray], name: str):
    model = loaded(recorded, name)
    count = sum(fill.numel() for key, fill in theirs(recorded, name).items() if counted(key))
    surplus = 33 if name == "repisdnet" else 0  # its second map
    assert sum(p.numel() for p in model.parameters()) == count - surplus
    x = image(2, 3, 32, 32)

    model.eval()
    with torch.no_grad():
        output = model(x)
    np.testing.assert_allclose(final_logits(output).numpy(), recorded[f"{name}.logits"], rtol=1e-8, atol=1e-9)
    for value, key in zip(statistics(output), ("eval_mean", "eval_rms"), strict=True):
        np.testing.assert_allclose(value, recorded[f"{name}.{key}"], rtol=1e-8, atol=1e-10)

    model.train()
    output = model(x)
    for value, key in zip(statistics(output), ("train_mean", "train_rms"), strict=True):
        np.testing.assert_allclose(value, recorded[f"{name}.{key}"], rtol=1e-8, atol=1e-10)
    torch.stack([map.square().mean() for map in all_logits(output)]).sum().backward()
    expected = dict(norms(recorded, name, "grad"))
    largest = max(expected.values())
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None
            assert key not in expected  # nor does the authors' code use it
            continue
        assert parameter.grad is not None, key
        # A bias before batch normalisation has gradient 0 up to rounding.
        assert parameter.grad.norm().item() == pytest.approx(expected[key], rel=1e-6, abs=1e-11 * largest)
    buffers = dict(model.named_buffers())
    for key, norm in norms(recorded, name, "buffer"):
        assert buffers[key].norm().item() == pytest.approx(norm, rel=1e-8)


def counted(key: str) -> bool:
    return not key.endswith(("running_mean", "running_var", "num_batches_tracked"))


@pytest.mark.parametrize("name", NAMES)
def test_names_map_one_to_one(recorded: dict[str, np.ndarray], name: str):
    weights = theirs(recorded, name)
    own = create_model(name).state_dict()
    converted = convert_reference_state_dict(weights)
    assert converted.keys() == own.keys()
    assert len(converted) == len(weights)
    assert {key: value.shape for key, value in converted.items()} == {k: v.shape for k, v in own.items()}
    wrapped = convert_reference_state_dict({f"module.model.{key}": v for key, v in weights.items()})
    assert all(torch.equal(wrapped[key], value) for key, value in converted.items())
    first, *_ = weights
    with pytest.raises(ModelError, match="stranger"):
        convert_reference_state_dict(weights | {"stranger.weight": weights[first]})


def test_rep_isd_net_of_every_kind(recorded: dict[str, np.ndarray]):
    weights = theirs(recorded, "repisdnet")
    model = loaded(recorded, "repisdnet").eval()
    x = image(1, 3, 16, 16)
    with torch.no_grad():
        expected = final_logits(model(x))
        # Their files name the edge branch pdc, their code cdc.
        older = {key.replace("cdc", "pdc"): value for key, value in weights.items()}
        model.load_state_dict(convert_reference_state_dict(older))
        assert torch.equal(final_logits(model(x)), expected)
        # Converted: the central difference is in the weights, which then sum to 0, and is no different twice.
        converted = dict(weights)
        for key, value in weights.items():
            if key.endswith("conv_cdc.conv1.weight"):
                converted[key] = value.clone()
                converted[key][:, :, 1, 1] -= value.sum((2, 3))
        model.load_state_dict(convert_reference_state_dict(converted))
        torch.testing.assert_close(final_logits(model(x)), expected)
        # Deployed, in their naming.
        fused = model.fuse().state_dict()
        theirs_deployed = {key: value for key, value in weights.items() if "rbr" not in key}
        for where, own in (
            ("down1.maxpool_conv.1", "encoder.stages.1"),
            ("down2.maxpool_conv.1", "encoder.stages.2"),
            ("up3.conv", "decoder.1"),
            ("up4.conv", "decoder.0"),
        ):
            for block, part in itertools.product((0, 1), ("weight", "bias")):
                theirs_key = f"backbone.{where}.double_conv.{block}.rbr_reparam.{part}"
                theirs_deployed[theirs_key] = fused[f"{own}.{block}.0.{part}"]
        deployed = create_model("repisdnet", deployed=True).double().eval()
        deployed.load_state_dict(convert_reference_state_dict(theirs_deployed))
        torch.testing.assert_close(final_logits(deployed(x)), expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_fused_equals_unfused(recorded: dict[str, np.ndarray], dtype: torch.dtype, tolerance: float):
    model = loaded(recorded, "repisdnet").to(dtype).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fused = model.fuse()
    assert isinstance(fused, RepISDNet)
    assert (fused.deployed, fused.training, fused.name) == (True, False, "repisdnet")
    assert model.training
    assert not model.deployed
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    x = image(2, 3, 37, 53).to(dtype)
    model.eval()
    with torch.no_grad():
        expected, answer = final_logits(model(x)), final_logits(fused(x))
        maps = zip(model.forward_features(x), fused.forward_features(x), strict=True)
        for ours, deployed in (*maps, (expected, answer), (answer, final_logits(fused.fuse()(x)))):
            assert deployed.dtype == dtype
            assert (ours - deployed).abs().max() <= tolerance * ours.abs().max()
    again = create_model("repisdnet", deployed=True).to(dtype).eval()
    again.load_state_dict(fused.state_dict())
    with torch.no_grad():
        assert torch.equal(final_logits(again(x)), answer)


def test_the_deployed_form_is_as_small_as_published():
    model = create_model("repisdnet").fuse().to("meta")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(0.279, rel=1e-3)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 256, 256, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(6.40, rel=0.02)


def test_a_network_without_branches_deploys_as_a_copy():
    model = create_model("mlclnet", mean=0.5)
    fused = model.fuse()
    x = torch.rand(1, 3, 8, 8)
    assert not fused.training
    assert model.training
    with torch.no_grad():
        assert torch.equal(final_logits(fused(x)), final_logits(model.eval()(x)))
        next(fused.parameters()).add_(1.0)
    assert not torch.equal(next(fused.parameters()), next(model.parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_auxiliary_maps(name: str):
    model = create_model(name).eval()
    with torch.no_grad():
        output = model(torch.rand(2, 1, 37, 53))
    if name not in AUXILIARY:
        assert isinstance(output, Tensor)
        return
    assert isinstance(output, DeepOutput)
    expected = [(2, 1, -(-37 // stride), -(-53 // stride)) for stride in AUXILIARY[name]]
    assert [tuple(map.shape) for map in output.aux] == expected
    assert all(map.std() > 0 for map in output.aux)


def build(name: str, coupling: Any, modulation: Any) -> tuple[TeacherStudent, Tensor, Tensor]:
    torch.manual_seed(0)
    cnn = create_model(name)
    model = TeacherStudent(cnn, SCAM(6, 2, cnn.stage_channels, 8, scale=0.5), coupling, modulation)
    return model, torch.rand(2, 1, 19, 19), torch.randn(2, 2, 6, 1, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("coupling", ["shared", "separate"])
@pytest.mark.parametrize("modulation", ["head", "cascade"])
def test_teacher_and_student(name: str, coupling: Any, modulation: Any):
    model, x, maps = build(name, coupling, modulation)
    model.eval()
    with torch.no_grad():
        teacher, student = model(x, maps)
        assert final_logits(teacher).shape == final_logits(student).shape == x.shape
        torch.testing.assert_close(final_logits(teacher), model.teacher_logits(x, maps))
        torch.testing.assert_close(final_logits(student), model.student_logits(x))
        assert not torch.allclose(final_logits(teacher), final_logits(student))


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_of_the_teacher_learns(name: str):
    model, x, maps = build(name, "separate", "cascade")
    model.to(memory_format=torch.channels_last)
    teacher, student = model(x, maps, fixed="student")
    assert model.scam is not None
    assert model.teacher_cnn is not None
    inner_loss(teacher, student, (x > 0.9).float(), model.scam.gate).backward()
    for key, parameter in (*model.teacher_cnn.named_parameters(), *model.scam.named_parameters()):
        assert (parameter.grad is not None) == parameter.requires_grad, key
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), key
    assert all(parameter.grad is None for parameter in model.student.parameters())


def test_only_what_the_published_network_never_reads_is_frozen():
    for name in list_models():
        model = create_model(name)
        frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
        assert frozen == (480 * 256 + 4 * 16 if name == "sctransnet" else 0)


@pytest.mark.parametrize(
    ("name", "key"), [("dnanet", "encoder.stages.2.1.conv1"), ("repisdnet", "decoder.0.0.dense.0")]
)
def test_glorot_networks_start_as_published(name: str, key: str):
    torch.manual_seed(0)
    conv = create_model(name).get_submodule(key)
    assert isinstance(conv, nn.Conv2d)
    fans = (conv.in_channels + conv.out_channels) * 9
    assert conv.weight.std().item() == pytest.approx((2 / fans) ** 0.5, rel=0.03)


def test_sctransnet_starts_as_published():
    torch.manual_seed(0)
    model = create_model("sctransnet")
    conv, norm = (model.get_submodule(f"decoder.2.body.{i}") for i in (3, 4))
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert conv.weight.std().item() == pytest.approx((2 / (conv.in_channels * 9)) ** 0.5, rel=0.03)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.5)


@pytest.mark.parametrize(("name", "joint"), [("mshnet", "join"), ("sctransnet", "mix")])
def test_a_prior_makes_a_joined_map_the_mean_of_its_parts(name: str, joint: str):
    layer = create_model(name, prior=0.01).get_submodule(joint)
    x = torch.rand(1, 4 if name == "mshnet" else 5, 6, 7)
    torch.testing.assert_close(layer(x), x.mean(1, keepdim=True))


def test_the_gradient_image():
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    x = (3 * rows + 4 * columns)[None, None].requires_grad_()
    gradient = gradient_magnitude(x)
    assert gradient.shape == x.shape
    torch.testing.assert_close(gradient[:, :, 1:-1, 1:-1], torch.full((1, 1, 4, 5), 5.0))
    flat = torch.zeros(1, 2, 5, 5, requires_grad=True)
    (slope,) = torch.autograd.grad(gradient_magnitude(flat).sum(), flat)
    assert bool(slope.isfinite().all())  # a root would have none at 0


@pytest.mark.parametrize("size", [(1, 1), (4, 8), (12, 18), (13, 37)])
@pytest.mark.parametrize("cells", [1, 2, 3, 6])
def test_average_pooling_is_pytorchs(size: tuple[int, int], cells: int):
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(average_pool(x, cells), nn.functional.adaptive_avg_pool2d(x, cells))


def test_rep_isd_net_trains_on_a_single_image():
    model = create_model("repisdnet").train()
    final_logits(model(torch.rand(1, 3, 16, 16))).mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_dropout_only_on_request():
    x = torch.rand(2, 3, 16, 16)
    for rate, same in ((0.0, True), (0.5, False)):
        model = create_model("repisdnet", drop_rate=rate).train()
        with torch.no_grad():
            assert torch.equal(final_logits(model(x)), final_logits(model(x))) == same
