from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from istd.errors import ModelError
from istd.losses import inner_loss
from istd.models import SCAM, TeacherStudent, create_model, create_teacher_student, create_vfm

COMBINATIONS = list(itertools.product(["alclnet", "mlclnet"], ["shared", "separate"], ["head", "cascade"]))


def build(name: str = "mlclnet", **kwargs: Any) -> TeacherStudent:
    torch.manual_seed(0)
    cnn = create_model(name)
    scam = SCAM(6, 2, cnn.stage_channels, 8, scale=0.5)
    return TeacherStudent(cnn, scam, **kwargs)


def batch(size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 1, size, size, generator=generator), torch.randn(2, 2, 6, 1, 1, generator=generator)


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize(("name", "coupling", "modulation"), COMBINATIONS)
def test_together_is_as_one_by_one(name: str, coupling: Any, modulation: Any):
    model = build(name, coupling=coupling, modulation=modulation).eval()
    x, maps = batch(19)
    with torch.no_grad():
        teacher, student = model(x, maps)
        assert teacher.shape == student.shape == (2, 1, 19, 19)
        torch.testing.assert_close(teacher, model.teacher_logits(x, maps))
        torch.testing.assert_close(student, model.student_logits(x))
        torch.testing.assert_close(student, model.student(x))
        assert not torch.allclose(teacher, student)


def test_places_of_modulation_differ():
    x, maps = batch()
    head, cascade = (build(modulation=place).eval() for place in ("head", "cascade"))
    with torch.no_grad():
        assert torch.equal(head.student_logits(x), cascade.student_logits(x))
        assert not torch.allclose(head.teacher_logits(x, maps), cascade.teacher_logits(x, maps))


@pytest.mark.parametrize(("name", "coupling", "modulation"), COMBINATIONS)
@pytest.mark.parametrize("fixed", ["teacher", "student"])
def test_a_fixed_role_keeps_its_value_and_loses_its_gradient(
    name: str, coupling: Any, modulation: Any, fixed: Any
):
    x, maps = batch()
    model = build(name, coupling=coupling, modulation=modulation)
    free = build(name, coupling=coupling, modulation=modulation)
    output, expected = model(x, maps, fixed=fixed), free(x, maps)
    for role in ("teacher", "student"):
        logits, reference = getattr(output, role), getattr(expected, role)
        torch.testing.assert_close(logits, reference)
        assert logits.requires_grad == (role != fixed)
    # The gradient of the free role is what it is without the other.
    other = "student" if fixed == "teacher" else "teacher"
    getattr(output, other).square().mean().backward()
    getattr(expected, other).square().mean().backward()
    for (key, parameter), reference in zip(model.named_parameters(), free.parameters(), strict=True):
        if reference.grad is None:
            assert parameter.grad is None, key
        else:
            torch.testing.assert_close(parameter.grad, reference.grad)
    assert model.scam is not None
    assert (model.scam.gate.grad is None) == (fixed == "teacher")


def test_shared_stage_maps_are_computed_once(monkeypatch: pytest.MonkeyPatch):
    model = build()
    calls = []
    forward = model.student.forward_features
    monkeypatch.setattr(model.student, "forward_features", lambda *args: calls.append(1) or forward(*args))
    model(*batch())
    assert len(calls) == 1
    assert all(int(norm.num_batches_tracked) == 1 for norm in norms(model))  # MLCL-Net: all in the encoder


@pytest.mark.parametrize(
    ("coupling", "modulation", "passes"), [("shared", "cascade", 2), ("separate", "head", 1)]
)
def test_passes_seen_by_batch_normalisation(coupling: Any, modulation: Any, passes: int):
    model = build(coupling=coupling, modulation=modulation)
    model(*batch())
    assert {int(norm.num_batches_tracked) for norm in norms(model)} == {passes}


def test_norms_in_a_shared_head_see_both_roles():
    model = build("alclnet")
    model(*batch())
    assert {int(norm.num_batches_tracked) for norm in norms(model.student.encoder)} == {1}
    assert {int(norm.num_batches_tracked) for norm in norms(model.student.attention)} == {2}


def test_a_shared_cnn_is_stored_once_and_separate_ones_start_equal():
    shared, separate = build(), build(coupling="separate")
    assert {key.split(".")[0] for key in shared.state_dict()} == {"student", "scam"}
    assert {key.split(".")[0] for key in separate.state_dict()} == {"student", "teacher_cnn", "scam"}
    assert separate.teacher_cnn is not None
    for teacher, student in zip(
        separate.teacher_cnn.parameters(), separate.student.parameters(), strict=True
    ):
        assert teacher is not student
        assert torch.equal(teacher, student)


def test_a_pair_is_used_as_given():
    teacher, student = create_model("mlclnet"), create_model("mlclnet")
    model = TeacherStudent((teacher, student), None, coupling="separate")
    assert model.teacher_cnn is teacher
    assert model.student is student


@pytest.mark.parametrize("coupling", ["shared", "separate"])
@pytest.mark.parametrize("fixed", [None, "teacher", "student"])
def test_without_scam_the_teacher_is_its_backbone(coupling: Any, fixed: Any):
    model = TeacherStudent("mlclnet", None, coupling=coupling)
    x, _ = batch()
    teacher, student = model(x, fixed=fixed)
    torch.testing.assert_close(teacher, student)  # equal weights
    assert (teacher.requires_grad, student.requires_grad) == (fixed != "teacher", fixed != "student")


def test_built_for_a_foundation_model():
    vfm = create_vfm("random:test_vit", num_layers=2)
    model = create_teacher_student("alclnet", vfm, hidden_dim=16, coupling="separate", prior=0.01)
    assert model.scam is not None
    assert (model.scam.embed_dim, model.scam.num_layers, model.scam.scale) == (64, 2, 0.12)
    assert create_teacher_student("mlclnet", None).scam is None
    custom = create_teacher_student("mlclnet", vfm, scale=0.3).scam
    assert custom is not None
    assert custom.scale == 0.3
    x = torch.rand(2, 1, 33, 40)
    teacher, student = model(x, vfm(x))
    assert teacher.shape == student.shape == (2, 1, 33, 40)
    assert not any("vit" in key or "vfm" in key for key in model.state_dict())


def test_a_seed_decides_everything():
    vfm = create_vfm("random:test_vit", num_layers=1)

    def state() -> dict[str, Tensor]:
        torch.manual_seed(5)
        return create_teacher_student("mlclnet", vfm, coupling="separate").state_dict()

    first, second = state(), state()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_parts_that_do_not_fit_are_refused():
    cnn = create_model("mlclnet")
    scam = SCAM(6, 2, [16, 32], 8, scale=0.5)
    with pytest.raises(ModelError, match="another backbone"):
        TeacherStudent(cnn, scam)
    with pytest.raises(ModelError, match="a pair"):
        TeacherStudent((cnn, create_model("mlclnet")), None)
    with pytest.raises(ModelError, match="same object"):
        TeacherStudent((cnn, cnn), None, coupling="separate")
    with pytest.raises(ModelError, match="network's name"):
        TeacherStudent(cnn, None, prior=0.1)


@pytest.mark.parametrize("option", [{"coupling": "tied"}, {"modulation": "neck"}])
def test_unknown_options_are_refused(option: dict[str, Any]):
    with pytest.raises(ModelError, match=next(iter(option))):
        TeacherStudent("mlclnet", None, **option)


def test_a_teacher_without_its_maps_is_refused():
    model = build()
    x, maps = batch()
    with pytest.raises(ModelError, match="hidden maps"):
        model(x)
    with pytest.raises(ModelError, match="fixed"):
        model(x, maps, fixed="both")


@pytest.mark.parametrize("name", ["alclnet", "mlclnet"])
def test_training_under_autocast(name: str):
    model = build(name)
    x, maps = batch(32)
    with torch.autocast("cpu", torch.bfloat16):
        teacher, student = model(x, maps, fixed="student")
        assert model.scam is not None
        loss = inner_loss(teacher, student, torch.zeros_like(x), model.scam.gate)
    assert teacher.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    # Batch statistics of so small a batch magnify rounding: compare in evaluation mode.
    plain = build(name).eval()
    with torch.autocast("cpu", torch.bfloat16):
        half = plain(x, maps).teacher
    full = plain(x, maps).teacher
    assert (half.float() - full).abs().mean() < 0.1 * full.std()
