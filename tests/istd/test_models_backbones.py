from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_recipe import fill, image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from istd.errors import ModelError
from istd.models import (
    Backbone,
    DeepOutput,
    FeatureInfo,
    Modulate,
    all_logits,
    convert_reference_state_dict,
    create_model,
    detach,
    final_logits,
)

# Parameters (millions) and GMACs at 3 × 256 × 256, measured on the public code.
SIZES = {
    "alclnet": (5.668, 6.67),
    "mlclnet": (0.657, 7.01),
    "gglnet": (8.988, 9.69),
    "mshnet": (4.066, 6.00),
    "repisdnet": (0.559, 11.94),
    "dnanet": (4.697, 13.93),
    "sctransnet": (11.327, 10.54),
}
NAMES = list(SIZES)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_macs_are_the_published_networks(name: str):
    model = create_model(name).eval().to("meta")
    params, gmacs = SIZES[name]
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(params, rel=1e-3)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 256, 256, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=0.02)  # two flops a MAC


def assert_close(actual: Tensor, expected: np.ndarray, rel: float) -> None:
    """Relative to the largest magnitude of the expected tensor."""
    expected_tensor = torch.from_numpy(np.asarray(expected)).to(actual.dtype)
    assert actual.shape == expected_tensor.shape
    scale = expected_tensor.abs().max().item()
    assert (actual.detach() - expected_tensor).abs().max().item() <= rel * scale


def test_mlclnet_equals_the_reference(golden: Callable[[str], dict[str, Any]]):
    case = golden("09_net_MLCL")
    weights = {k[2:]: torch.from_numpy(np.array(v)) for k, v in case.items() if k.startswith("w.")}
    model = create_model("mlclnet")
    model.load_state_dict(convert_reference_state_dict(weights))
    assert sum(p.numel() for p in model.parameters()) == int(case["n_params"])
    x = torch.from_numpy(case["x"])

    model.eval()
    with torch.no_grad():
        for i, feature in enumerate(model.forward_features(x)):
            assert_close(feature, case[f"feat_eval_{i}"], 1e-5)
        assert_close(model(x), case["logits_eval"], 1e-5)

    model.train()
    logits = model(x)
    assert_close(logits, case["logits_train"], 1e-5)
    loss = logits.square().mean()
    assert loss.item() == pytest.approx(float(case["loss_meansq_train"]), rel=1e-5)
    loss.backward()
    names = convert_names(case["grad_norm_names"])
    expected = dict(zip(names, case["grad_norms"], strict=True))
    parameters = dict(model.named_parameters())
    assert parameters.keys() == expected.keys()
    largest = max(expected.values())
    for key, parameter in parameters.items():
        assert parameter.grad is not None
        # A bias before batch normalisation has gradient 0 up to rounding.
        assert parameter.grad.norm().item() == pytest.approx(expected[key], rel=1e-5, abs=1e-6 * largest)
    after = {
        k[16:]: torch.from_numpy(np.array(v)) for k, v in case.items() if k.startswith("buf_after_train.")
    }
    buffers = dict(model.named_buffers())
    for key, value in convert_reference_state_dict(after).items():
        torch.testing.assert_close(buffers[key], value, rtol=1e-5, atol=1e-6)


def convert_names(names: Sequence[str]) -> list[str]:
    """The reference's parameter names → ours, in the same order."""
    return list(convert_reference_state_dict({str(name): torch.empty(0) for name in names}))


def test_alclnet_equals_the_reference():
    # Recorded once from the public code (github.com/yuanhang-yao/semantic-prior at 551fdd5,
    # models/alclnet.py) in float64, with weights and image made by model_recipe.
    with np.load(Path(__file__).parents[1] / "data" / "alclnet_reference.npz", allow_pickle=False) as data:
        case = dict(data)
    weights = {
        str(name): fill(str(name), tuple(int(n) for n in str(shape).split(",") if n))
        for name, shape in zip(case["names"], case["shapes"], strict=True)
    }
    model = create_model("alclnet").double()
    model.load_state_dict(convert_reference_state_dict(weights))
    x = image(2, 3, 32, 32)

    model.eval()
    with torch.no_grad():
        for i, feature in enumerate(model.forward_features(x)):
            assert_close(feature.mean((2, 3)), case[f"feature_mean_{i}"], 1e-9)
            assert_close(feature.square().mean((2, 3)).sqrt(), case[f"feature_rms_{i}"], 1e-9)
        assert_close(model(x), case["logits_eval"], 1e-9)

    model.train()
    logits = model(x)
    assert_close(logits, case["logits_train"], 1e-9)
    logits.square().mean().backward()
    expected = dict(zip(convert_names(case["grad_names"]), case["grad_norms"], strict=True))
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.norm().item() == pytest.approx(expected[key], rel=1e-7, abs=1e-10)
    buffers = dict(model.named_buffers())
    for key, norm in zip(convert_names(case["buffer_names"]), case["buffer_norms"], strict=True):
        assert buffers[key].norm().item() == pytest.approx(norm, rel=1e-9)


def test_reference_weights_load_from_data_parallel_and_teacher_checkpoints():
    own = create_model("alclnet").state_dict()
    names = np.load(Path(__file__).parents[1] / "data" / "alclnet_reference.npz")["names"]
    theirs = dict(zip((str(name) for name in names), range(len(names)), strict=True))
    plain = {name: torch.tensor(float(i)) for name, i in theirs.items()}
    expected = convert_reference_state_dict(plain)
    assert expected.keys() == own.keys()
    parallel = {f"module.{name}": value for name, value in plain.items()}
    teacher = {f"base.{name}": value for name, value in plain.items()} | {
        "modulator.gamma_gate": torch.ones(3)
    }
    for wrapped in (parallel, teacher):
        assert convert_reference_state_dict(wrapped) == expected


def test_a_foreign_checkpoint_is_refused():
    with pytest.raises(ModelError, match=r"backbone\.conv1\.weight"):
        convert_reference_state_dict({"backbone.conv1.weight": torch.zeros(1)})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (17, 5), (37, 53)])
def test_any_size_is_answered_as_if_its_border_went_on(name: str, size: tuple[int, int]):
    model = create_model(name).double().eval()
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    height, width = (math.ceil(n / model.stride) * model.stride for n in size)
    rows = torch.arange(height).clamp(max=size[0] - 1)
    columns = torch.arange(width).clamp(max=size[1] - 1)
    with torch.no_grad():
        logits = final_logits(model(x))
        assert logits.shape == (2, 1, *size)
        larger = final_logits(model(x[:, :, rows][:, :, :, columns]))
        assert torch.equal(logits, larger[:, :, : size[0], : size[1]])


@pytest.mark.parametrize("name", NAMES)
def test_a_multiple_of_the_stride_is_not_padded(name: str):
    model = create_model(name).eval()
    x = torch.rand(1, 3, model.stride * 2, model.stride * 3)
    with torch.no_grad():
        outputs, expected = model(x), model.decode(model.encode(x, None))
    assert all(torch.equal(a, b) for a, b in zip(all_logits(outputs), all_logits(expected), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_gray_images_are_repeated_and_normalised(name: str):
    torch.manual_seed(0)
    plain = create_model(name).eval()
    torch.manual_seed(0)
    normalising = create_model(name, mean=0.3, std=[0.2, 0.2, 0.2]).eval()
    x = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        expected = final_logits(plain(((x - 0.3) / 0.2).expand(-1, 3, -1, -1)))
        torch.testing.assert_close(final_logits(normalising(x)), expected)
    assert normalising.state_dict().keys() == plain.state_dict().keys()


def test_networks_can_be_made_for_gray_images():
    model = create_model("mlclnet", in_chans=1).eval()
    assert model(torch.rand(1, 1, 8, 8)).shape == (1, 1, 8, 8)
    with pytest.raises(ModelError, match="wrong shape"):
        model(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    "x", [torch.rand(3, 8, 8), torch.rand(1, 2, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)]
)
def test_images_of_another_kind_are_refused(x: Tensor):
    with pytest.raises(ModelError, match="the image"):
        create_model("mlclnet")(x)


@pytest.mark.parametrize("kwargs", [{"in_chans": 0}, {"std": 0.0}, {"mean": [0.1, 0.2]}, {"prior": 1.0}])
def test_senseless_settings_are_refused(kwargs: dict[str, Any]):
    with pytest.raises(ModelError):
        create_model("mlclnet", **kwargs)


def test_the_head_counts_its_maps():
    model = create_model("mlclnet")
    with pytest.raises(ModelError, match="one map a stage"):
        model.forward_head(model.forward_features(torch.rand(2, 3, 8, 8))[:2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [False, True])
def test_a_prior_sets_the_first_prediction(name: str, training: bool):
    torch.manual_seed(0)
    model = create_model(name, prior=0.01).train(training)
    with torch.no_grad():
        answer, *aux = (torch.sigmoid(map) for map in all_logits(model(torch.rand(2, 3, 64, 64))))
    assert answer.mean().item() == pytest.approx(0.01, rel=0.5)
    assert answer.max() < 0.05
    # Coarse maps of an untrained encoder are larger where running statistics do not fit yet.
    assert all(0.003 < map.mean() < 0.03 and map.max() < 0.1 for map in aux)
    unset = create_model(name).train(training)
    with torch.no_grad():
        assert torch.sigmoid(final_logits(unset(torch.rand(2, 3, 64, 64)))).mean() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_decides_the_weights(name: str):
    def build(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return create_model(name, prior=0.01).state_dict()

    first, again, other = build(3), build(3), build(4)
    assert all(torch.equal(first[key], again[key]) for key in first)
    differing = [key for key in first if not torch.equal(first[key], other[key])]
    last = create_model(name).final_layers()[-1].weight.shape
    assert any(first[key].shape == last for key in differing)


@pytest.mark.parametrize("name", ["alclnet", "mlclnet", "gglnet"])
def test_initial_weights_are_distributed_as_published(name: str):
    torch.manual_seed(0)
    model = create_model(name)
    conv = model.get_submodule("encoder.stages.2.1.body.0")
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.03)  # He, fan-out
    assert conv.bias is not None
    assert torch.equal(conv.bias, torch.zeros(64))


@pytest.mark.parametrize("name", NAMES)
def test_modulation_reaches_the_next_stage(name: str):
    model = create_model(name).eval()
    x = torch.rand(1, 3, 32, 32)
    seen: list[int] = []

    def double(i: int, feature: Tensor) -> Tensor:
        seen.append(i)
        return 2 * feature if i == 0 else feature

    with torch.no_grad():
        plain, modulated = model.forward_features(x), model.forward_features(x, double)
    assert seen == list(range(len(plain)))
    assert torch.equal(modulated[0], 2 * plain[0])
    assert not torch.allclose(modulated[-1], plain[-1])


class Deep(Backbone):
    """A small network with deep supervision: a coarse and a full-size auxiliary map."""

    feature_info = [FeatureInfo(4, 1, "conv"), FeatureInfo(4, 4, "pool")]  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(1)
        self.conv, self.pool, self.head = nn.Conv2d(1, 4, 1), nn.AvgPool2d(4), nn.Conv2d(4, 1, 1)

    def encode(self, x: Tensor, modulate: Modulate | None) -> list[Tensor]:
        fine = self.conv(x)
        return [fine, self.pool(fine)]

    def decode(self, features: Sequence[Tensor]) -> DeepOutput:
        fine, coarse = (self.head(feature) for feature in features)
        return DeepOutput(fine, (fine + 1, coarse))

    def final_layers(self) -> list[nn.Conv2d]:
        return [self.head]


def test_outputs_with_auxiliary_maps():
    model = Deep()
    output = model(torch.rand(2, 1, 9, 10))
    assert isinstance(output, DeepOutput)
    assert [tuple(map.shape[-2:]) for map in all_logits(output)] == [(9, 10), (9, 10), (3, 3)]
    assert final_logits(output) is output.logits
    fixed = detach(output)
    assert not any(map.requires_grad for map in all_logits(fixed))
    plain = torch.rand(1, 1, 2, 2)
    assert final_logits(plain) is plain
    assert all_logits(plain) == (plain,)
