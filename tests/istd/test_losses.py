from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from istd.errors import ConfigError, LabelError
from istd.losses import (
    TASK_LOSSES,
    bce_iou_loss,
    bce_loss,
    focal_loss,
    gate_penalty,
    get_task_loss,
    hard_bce_loss,
    inner_loss,
    kd_loss,
    outer_loss,
    soft_iou_loss,
    task_loss,
)
from istd.models import DeepOutput


def pair(dtype: torch.dtype = torch.float64, size: int = 4, batch: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, 1, size, size, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.rand(batch, 1, size, size, generator=generator, dtype=torch.float64).to(
        dtype
    )


def cluster_weights(alpha: Tensor, ids: Tensor) -> Tensor:
    """w = eʳ / mean(eʳ), r = ln2·tanh((α_c − batch mean)/ln2), with the reference's fixed denominator."""
    raw = alpha[ids] - alpha[ids].mean()
    weights = torch.exp(math.log(2) * torch.tanh(raw / math.log(2)))
    return weights / (weights.mean().detach() + 1e-6)


@pytest.mark.parametrize("i", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_losses_and_gradients_equal_the_reference(
    golden: Callable[[str], dict[str, Any]], i: int, dtype: torch.dtype
):
    case = golden("04_losses")

    def tensor(name: str) -> Tensor:
        value = torch.from_numpy(np.asarray(case[f"{name}_{i}"]))
        return value.to(dtype) if value.is_floating_point() else value

    def check(actual: Tensor, name: str) -> None:
        expected = tensor(name)
        assert actual.dtype == dtype
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))

    target = tensor("target")[:, None]
    ids = tensor("cluster_ids")
    student, teacher, gate, alpha = (
        tensor(name).requires_grad_() for name in ("student_logits", "teacher_logits", "gate", "alpha")
    )
    check(bce_loss(student, target), "task_loss_none_student")
    check(kd_loss(student, teacher), "kd_loss_none")

    inner = inner_loss(teacher, student, target, gate, cluster_weights(alpha.detach(), ids))
    check(inner, "inner_loss")
    inner.backward()
    assert teacher.grad is not None
    assert gate.grad is not None
    check(teacher.grad, "inner_dteacher")
    check(gate.grad, "inner_dgate")
    assert student.grad is None

    teacher.grad = None
    outer = outer_loss(student, teacher, target, cluster_weights(alpha, ids))
    check(outer, "outer_loss")
    outer.backward()
    assert student.grad is not None
    assert alpha.grad is not None
    check(student.grad, "outer_dstudent")
    check(alpha.grad, "outer_dalpha")
    assert teacher.grad is None


def test_bce_is_its_formula():
    logits, target = pair()
    p = 1 / (1 + torch.exp(-logits))
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).mean((1, 2, 3))
    torch.testing.assert_close(bce_loss(logits, target), expected)


def test_soft_iou_is_its_formula_and_the_true_iou_of_certain_predictions():
    target = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    target[0, 0, :2] = 1  # 8 pixels; the second image has no target
    logits = torch.full_like(target, -100.0)
    logits[0, 0, 1:3] = 100.0  # 8 pixels, 4 of them right
    expected = [1 - (4 + 1) / (12 + 1), 1 - 1 / 1]
    torch.testing.assert_close(soft_iou_loss(logits, target), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(
        soft_iou_loss(logits, target, smooth=1e-9)[:1], torch.tensor([1 - 4 / 12], dtype=torch.float64)
    )
    false_alarms = torch.full((1, 1, 4, 4), 100.0)
    torch.testing.assert_close(soft_iou_loss(false_alarms, torch.zeros(1, 1, 4, 4)), torch.tensor([16 / 17]))


@pytest.mark.parametrize("fraction", [0.5, 0.3, 1.0])
def test_hard_bce_over_the_batch_is_the_sorted_tail(fraction: float):
    logits, target = pair(size=5)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten()
    tail = loss.sort().values[int((1 - fraction) * loss.numel()) :]
    torch.testing.assert_close(hard_bce_loss(logits, target, fraction).mean(), tail.mean())


def test_hard_bce_of_each_image():
    logits, target = pair(size=4)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1)
    expected = loss.sort(1).values[:, 8:].mean(1)
    torch.testing.assert_close(hard_bce_loss(logits, target, scope="sample"), expected)
    torch.testing.assert_close(hard_bce_loss(logits, target, 1.0, "sample"), bce_loss(logits, target))


def test_hard_bce_keeps_equal_pixels_together():
    logits, target = torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)
    torch.testing.assert_close(hard_bce_loss(logits, target), torch.full((2,), math.log(2)))


def test_hard_bce_gives_easy_pixels_no_gradient():
    logits, target = pair(size=4)
    logits.requires_grad_()
    hard_bce_loss(logits, target, scope="sample").sum().backward()
    assert logits.grad is not None
    assert (logits.grad.flatten(1) != 0).sum(1).tolist() == [8, 8, 8]


def test_distillation_is_its_formula_and_moves_both():
    s, t = pair()
    s.requires_grad_()
    t.requires_grad_()
    expected = (torch.sigmoid(s / 4) - torch.sigmoid(t / 4)).square().mean((1, 2, 3))
    loss = kd_loss(s, t)
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    assert s.grad is not None
    assert t.grad is not None
    assert torch.count_nonzero(kd_loss(s, s)) == 0


def test_gate_penalty_is_the_mean_magnitude():
    gate = torch.tensor([1.0, -3.0, 0.0], requires_grad=True)
    gate_penalty(gate).backward()
    assert gate_penalty(gate).item() == pytest.approx(4 / 3)
    assert gate.grad is not None
    torch.testing.assert_close(gate.grad, torch.tensor([1.0, -1.0, 0.0]) / 3)


@pytest.mark.parametrize("name", sorted(TASK_LOSSES))
def test_derivatives(name: str):
    logits, target = pair(size=3, batch=2)
    logits.requires_grad_()
    loss = TASK_LOSSES[name]
    assert gradcheck(lambda z: loss(z, target), (logits,))
    assert gradgradcheck(lambda z: loss(z, target), (logits,))


def test_derivatives_of_distillation():
    s, t = (x.requires_grad_() for x in pair(size=3, batch=2))
    assert gradcheck(kd_loss, (s, t))
    assert gradgradcheck(kd_loss, (s, t))


@pytest.mark.parametrize("name", sorted(TASK_LOSSES))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_full(name: str, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 300, 300, generator=generator).to(dtype)  # 90 000 pixels overflow a half sum
    target = torch.rand(2, 1, 300, 300, generator=generator)
    loss = TASK_LOSSES[name](logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, TASK_LOSSES[name](logits.float(), target))
    assert kd_loss(logits, logits.flip(0)).dtype == torch.float32


def test_losses_stay_in_the_logits_precision():
    logits, target = pair(torch.float32)
    for loss in TASK_LOSSES.values():
        assert loss(logits, target.double()).dtype == torch.float32


@pytest.mark.parametrize("name", sorted(TASK_LOSSES))
def test_extreme_logits_stay_finite(name: str):
    logits = torch.tensor([[-1e4, 1e4], [1e4, -1e4]]).view(1, 1, 2, 2).requires_grad_()
    target = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).view(1, 1, 2, 2)
    loss = TASK_LOSSES[name](logits, target)
    loss.sum().backward()
    assert logits.grad is not None
    assert bool(loss.isfinite().all() and logits.grad.isfinite().all())


def test_task_loss_over_several_outputs():
    final, target = pair(size=4)
    coarse = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    same = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    output = DeepOutput(final, (same, coarse))
    pooled = torch.nn.functional.max_pool2d(target, 2)
    parts = [bce_loss(final, target), bce_loss(same, target), bce_loss(coarse, pooled)]
    torch.testing.assert_close(task_loss(output, target), sum(parts, torch.zeros(3)) / 3)
    torch.testing.assert_close(task_loss(output, target, over_outputs="sum"), sum(parts, torch.zeros(3)))
    torch.testing.assert_close(task_loss(final, target, "soft-iou"), soft_iou_loss(final, target))
    torch.testing.assert_close(
        task_loss(final, target, "bce-iou"), bce_loss(final, target) + soft_iou_loss(final, target)
    )


def test_distillation_uses_the_final_output():
    s, t = pair()
    worst = torch.full_like(s, 50.0)
    torch.testing.assert_close(kd_loss(DeepOutput(s, (worst,)), DeepOutput(t, (worst, worst))), kd_loss(s, t))
    deep = inner_loss(DeepOutput(t, (t,)), DeepOutput(s, (worst,)), torch.zeros_like(s))
    torch.testing.assert_close(deep, inner_loss(t, s, torch.zeros_like(s)))


def test_inner_and_outer_losses_are_their_formulas():
    s, t = pair()
    y, gate, w = torch.zeros_like(s), torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.0, 1.5])
    inner = (w * (bce_loss(t, y) + 0.1 * kd_loss(s, t))).mean() + 0.005 * 1.5
    torch.testing.assert_close(inner_loss(t, s, y, gate, w), inner)
    outer = (w * (kd_loss(s, t) + bce_loss(s, y))).mean()
    torch.testing.assert_close(outer_loss(s, t, y, w), outer)
    torch.testing.assert_close(outer_loss(s, t, y), (kd_loss(s, t) + bce_loss(s, y)).mean())
    torch.testing.assert_close(inner_loss(t, s, y, kd_weight=0.0, kind="bce-iou"), bce_iou_loss(t, y).mean())


def test_weights_of_images_get_their_gradient():
    s, t = pair()
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    inner_loss(t, s, torch.zeros_like(s), weights=w).backward()
    assert w.grad is not None
    torch.testing.assert_close(w.grad, (bce_loss(t, torch.zeros_like(t)) + 0.1 * kd_loss(s, t)) / 3)


def test_bad_input_is_refused():
    logits, target = pair()
    for loss in (*TASK_LOSSES.values(), kd_loss):
        with pytest.raises(LabelError, match="different shapes"):
            loss(logits, target[:1])
        with pytest.raises(LabelError, match="different shapes"):
            loss(logits, target[:, 0])
    with pytest.raises(LabelError, match="one weight per image"):
        outer_loss(logits, logits, target, torch.ones(1))
    with pytest.raises(ConfigError, match="bce-iou"):
        get_task_loss("dice")
    assert get_task_loss(bce_loss) is bce_loss
    with pytest.raises(ConfigError):
        hard_bce_loss(logits, target, 0.0)
    with pytest.raises(ConfigError):
        hard_bce_loss(logits, target, scope="pixel")  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        soft_iou_loss(logits, target, smooth=0.0)
    with pytest.raises(ConfigError):
        task_loss(logits, target, over_outputs="max")  # type: ignore[arg-type]


def test_focal_loss_is_cornernet_s():
    logits, target = pair()
    target = (target * 4).floor().clamp_max(3) / 3
    p = logits.sigmoid()
    pixels = torch.where(
        target == 1,
        -((1 - p) ** 2) * p.log(),
        -target * (1 - p) ** 2 * p.log() - (1 - target) ** 4 * p**2 * (1 - p).log(),
    )
    expected = pixels.sum() / max(1, int((target == 1).sum()))
    torch.testing.assert_close(focal_loss(logits, target).mean(), expected)
    # Without a full label the sum is divided by 1; extreme logits stay finite.
    empty = (p**2 * -(1 - p).log()).sum()
    torch.testing.assert_close(focal_loss(logits, target * 0).mean(), empty)
    extreme = torch.tensor([-1e3, 1e3], dtype=torch.float32).view(1, 1, 1, 2)
    assert torch.isfinite(focal_loss(extreme, extreme.clamp(0, 1))).all()
    assert gradcheck(lambda z: focal_loss(z, target), logits.requires_grad_())
    with pytest.raises(ConfigError, match="powers"):
        focal_loss(logits, target, alpha=-1.0)
