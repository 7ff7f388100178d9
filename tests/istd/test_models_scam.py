from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from istd.errors import ModelError
from istd.models import (
    SCAM,
    Modulation,
    TeacherStudent,
    convert_reference_scam,
    convert_reference_state_dict,
    create_model,
)


def assert_close(actual: Tensor, expected: np.ndarray, rel: float = 1e-5) -> None:
    """Relative to the largest magnitude of the expected tensor."""
    reference = torch.from_numpy(expected)
    assert actual.shape == reference.shape
    assert (actual.detach() - reference).abs().max().item() <= rel * reference.abs().max().item()


def from_golden(case: dict[str, Any]) -> tuple[TeacherStudent, Tensor, Tensor]:
    weights = {
        key[2:]: torch.from_numpy(np.array(value)) for key, value in case.items() if key.startswith("w.")
    }
    layers, batch, dim, height, width = case["hidden_maps"].shape
    channels = [int(chs) for chs in case["stage_channels"]]
    scam = SCAM(dim, layers, channels, 128, scale=float(case["modulation_scale"]))
    scam.load_state_dict(convert_reference_scam(weights))
    cnn = create_model("mlclnet")
    cnn.load_state_dict(convert_reference_state_dict(weights))
    maps = torch.from_numpy(case["hidden_maps"]).transpose(0, 1)
    assert maps.shape == (batch, layers, dim, height, width)
    return TeacherStudent(cnn, scam).eval(), torch.from_numpy(case["x"]), maps


@pytest.mark.parametrize("together", [True, False])
def test_teacher_and_student_equal_the_reference(golden: Callable[[str], dict[str, Any]], together: bool):
    case = golden("07_scam_MLCL")
    model, x, maps = from_golden(case)
    assert model.scam is not None
    modulation = model.scam(maps)
    for i in range(3):
        assert_close(modulation.gammas[i], case[f"gamma_{i}"])
        assert_close(modulation.betas[i], case[f"beta_{i}"])
    if together:  # stage maps computed once
        teacher, student = model(x, maps)
    else:
        teacher, student = model.teacher_logits(x, maps), model.student_logits(x)
    assert_close(teacher, case["teacher_logits_eval"])
    assert_close(student, case["student_logits_eval"])
    loss = teacher.square().mean()
    assert loss.item() == pytest.approx(float(case["loss_meansq"]), rel=1e-5)
    loss.backward()
    expected = {k[5:]: torch.from_numpy(v) for k, v in case.items() if k.startswith("grad.")}
    gradients = convert_reference_scam(expected)
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    for name, parameter in model.scam.named_parameters():
        assert parameter.grad is not None
        # The pooling's bias shifts every token alike: its gradient is 0 up to rounding.
        atol = 1e-6 * largest if name == "attention.bias" else 1e-5 * gradients[name].abs().max().item()
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=0.0, atol=atol)


def test_the_formulas_written_out():
    torch.manual_seed(0)
    scam = SCAM(5, 3, [2, 4], 6, scale=0.3).double()
    with torch.no_grad():
        for parameter in scam.parameters():
            parameter.copy_(torch.randn_like(parameter))
    maps = torch.randn(2, 3, 5, 2, 3, dtype=torch.float64)
    fused = torch.zeros(2, 5, 6, dtype=torch.float64)
    for k in range(3):
        fused += torch.exp(scam.fusion[k]) / torch.exp(scam.fusion).sum() * maps[:, k].flatten(2)
    score = torch.einsum("d,bdt->bt", scam.attention.weight[0, :, 0, 0], fused) + scam.attention.bias
    a = torch.exp(score) / torch.exp(score).sum(1, keepdim=True)
    g = (a[:, None] * fused).sum(-1)
    first, _, last = scam.mlp
    out = torch.relu(g @ first.weight.T + first.bias) @ last.weight.T + last.bias
    gamma_hat = [out[:, 0:2], out[:, 4:8]]
    beta = [out[:, 2:4], out[:, 8:12]]
    gates = [scam.gate[:2], scam.gate[2:]]
    modulation = scam(maps)
    for i in range(2):
        gamma = 1 + torch.tanh(gates[i] * gamma_hat[i])
        torch.testing.assert_close(modulation.gammas[i][..., 0, 0], gamma)
        torch.testing.assert_close(modulation.betas[i][..., 0, 0], beta[i])
        feature = torch.randn(2, gamma.shape[1], 4, 4, dtype=torch.float64)
        expected = feature + 0.3 * ((gamma - 1)[..., None, None] * feature + beta[i][..., None, None])
        torch.testing.assert_close(modulation(i, feature), expected)


def test_a_modulation_of_one_and_zero_changes_nothing():
    features = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)]
    ones = tuple(torch.ones(2, chs, 1, 1) for chs in (3, 5))
    zeros = tuple(torch.zeros(2, chs, 1, 1) for chs in (3, 5))
    for before, after in zip(features, Modulation(ones, zeros, 0.55).apply(features), strict=True):
        assert torch.equal(before, after)


def test_fusion_starts_with_equal_shares_and_gates_open():
    scam = SCAM(4, 3, [2], scale=0.1)
    maps = torch.randn(1, 3, 4, 2, 2)
    torch.testing.assert_close(scam.fuse(maps), maps.mean(1))
    assert torch.equal(scam.gate, torch.ones(2))


def test_features_in_half_precision_are_fused_in_full():
    scam = SCAM(4, 3, [2], scale=0.1)
    maps = torch.randn(2, 3, 4, 2, 2).half()
    half, full = scam(maps), scam(maps.float())
    assert half.gammas[0].dtype == torch.float32
    assert torch.equal(half.gammas[0], full.gammas[0])


def test_half_precision_stage_maps_stay_so():
    modulation = Modulation((torch.full((1, 2, 1, 1), 1.5),), (torch.zeros(1, 2, 1, 1),), 1.0)
    feature = torch.ones(1, 2, 3, 3, dtype=torch.bfloat16)
    assert modulation(0, feature).dtype == torch.bfloat16
    assert torch.equal(modulation(0, feature), 1.5 * feature)


def test_modulation_does_not_depend_on_the_order_of_tokens():
    torch.manual_seed(0)
    scam = SCAM(4, 2, [3], scale=0.1)
    maps = torch.randn(1, 2, 4, 2, 3)
    shuffled = maps.flatten(3)[..., torch.randperm(6)].view_as(maps)
    torch.testing.assert_close(scam(maps).gammas[0], scam(shuffled).gammas[0])


@pytest.mark.parametrize("shape", [(2, 3, 4, 2), (2, 2, 4, 2, 2), (2, 3, 5, 2, 2)])
def test_maps_of_another_model_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ModelError, match="do not fit this teacher"):
        SCAM(4, 3, [2], scale=0.1)(torch.zeros(shape))


def test_senseless_sizes_are_refused():
    with pytest.raises(ModelError, match="num_layers=0"):
        SCAM(4, 0, [2], scale=0.1)


def test_a_foreign_modulator_is_refused_and_a_vfm_beside_it_left_out():
    assert convert_reference_scam(
        {"modulator.gamma_gate": torch.ones(2), "modulator.dino.w": torch.ones(1)}
    ).keys() == {"gate"}
    with pytest.raises(ModelError, match="film"):
        convert_reference_scam({"film.weight": torch.ones(1)})
