"""What hypergradients ask of the models: second derivatives, functional calls, no hidden state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp

from istd.losses import gate_penalty, inner_loss, kd_loss, task_loss
from istd.models import SCAM, TeacherStudent, create_model

Params = dict[str, Tensor]


def case(
    name: str, training: bool, **kwargs: Any
) -> tuple[TeacherStudent, Callable[[Params], Tensor], Params]:
    """A float64 teacher and student, a scalar loss as a function of all parameters, and those parameters."""
    torch.manual_seed(0)
    cnn = create_model(name)
    model = (
        TeacherStudent(cnn, SCAM(4, 2, cnn.stage_channels, 5, scale=0.5), **kwargs).double().train(training)
    )
    size = max(cnn.stride, 8)
    shape = (3, 1, size, 2 * size)  # for SCTransNet two patches: with one, its affinities are constant
    x, y = torch.rand(shape, dtype=torch.float64), torch.rand(shape, dtype=torch.float64)
    maps = torch.randn(3, 2, 4, 2, 2, dtype=torch.float64)
    buffers = {key: value.clone() for key, value in model.named_buffers()}

    def loss(params: Params) -> Tensor:
        state = params | {key: value.clone() for key, value in buffers.items()}
        teacher, student = functional_call(model, state, (x, maps))
        # Not the inner and outer loss themselves: with a fixed role a loss's gradient is not its slope.
        per_image = task_loss(student, y) + task_loss(teacher, y) + kd_loss(student, teacher)
        return per_image.mean() + gate_penalty(params["scam.gate"])

    # Zero biases behind a ReLU would leave units exactly on its kink.
    trained = ((k, p) for k, p in model.named_parameters() if p.requires_grad)
    params = {k: p.detach() + 0.02 * torch.randn_like(p) for k, p in trained}
    return model, loss, params


def direction(params: Params) -> Params:
    generator = torch.Generator().manual_seed(2)
    return {k: torch.randn(p.shape, generator=generator, dtype=p.dtype) for k, p in params.items()}


def dot(a: Params, b: Params) -> float:
    return sum(float((a[key] * b[key]).sum()) for key in a)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kwargs", "training"),
    [
        ("mlclnet", {}, False),
        ("mlclnet", {}, True),
        ("mlclnet", {"coupling": "separate", "modulation": "cascade"}, False),
        ("mlclnet", {"coupling": "separate", "modulation": "cascade"}, True),
        ("alclnet", {}, False),
        ("alclnet", {}, True),
        ("gglnet", {}, False),
        ("mshnet", {}, False),
        ("repisdnet", {}, True),
        ("dnanet", {}, False),
        ("sctransnet", {}, False),
    ],
)
def test_second_derivatives(name: str, kwargs: dict[str, Any], training: bool):
    _, loss, params = case(name, training, **kwargs)
    v = direction(params)
    scale = 1e-2 / dot(v, v) ** 0.5
    v = {key: value * scale for key, value in v.items()}

    # Double backward.
    leaves = {key: value.clone().requires_grad_() for key, value in params.items()}
    first = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    along = sum((g * t).sum() for g, t in zip(first, v.values(), strict=True))
    assert isinstance(along, Tensor)
    hvp = dict(zip(leaves, torch.autograd.grad(along, list(leaves.values())), strict=True))

    # Forward over reverse gives the same.
    _, forward = jvp(grad(loss), (params,), (v,))
    error = sum(float((hvp[key] - forward[key]).square().sum()) for key in hvp) ** 0.5
    assert error <= 1e-9 * dot(hvp, hvp) ** 0.5

    # And central differences of the gradient agree; a small step stays on one side of the ReLUs' kinks.
    eps = 1e-5
    plus, minus = (grad(loss)({k: p + s * eps * v[k] for k, p in params.items()}) for s in (1.0, -1.0))
    numeric = {key: (plus[key] - minus[key]) / (2 * eps) for key in plus}
    error = sum(float((hvp[key] - numeric[key]).square().sum()) for key in hvp) ** 0.5
    assert error <= 1e-5 * dot(hvp, hvp) ** 0.5
    # The first derivative too.
    slope = (
        float(loss({k: p + eps * v[k] for k, p in params.items()}))
        - float(loss({k: p - eps * v[k] for k, p in params.items()}))
    ) / (2 * eps)
    assert slope == pytest.approx(
        dot(dict(zip(leaves, (g.detach() for g in first), strict=True)), v), rel=1e-5
    )


def test_a_functional_call_is_the_call_and_changes_nothing():
    model, loss, params = case("alclnet", training=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    changed = {key: value * 1.1 for key, value in params.items()}
    value = loss(changed)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.load_state_dict(changed, strict=False)
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    again = loss(dict(model.named_parameters()))
    assert torch.equal(value, again)
    assert all(torch.equal(value, buffers[key]) for key, value in model.named_buffers())


@pytest.mark.parametrize("fixed", ["teacher", "student"])
def test_a_fixed_role_is_constant_in_forward_mode_too(fixed: Any):
    model, _, params = case("mlclnet", training=False)
    x, maps = torch.rand(2, 1, 8, 8, dtype=torch.float64), torch.randn(2, 2, 4, 1, 1, dtype=torch.float64)

    def both(p: Params) -> tuple[Tensor, Tensor]:
        return tuple(functional_call(model, p, (x, maps), {"fixed": fixed}))  # type: ignore[return-value]

    _, (teacher, student) = jvp(both, (params,), (direction(params),))
    constant, moving = (teacher, student) if fixed == "teacher" else (student, teacher)
    assert torch.count_nonzero(constant) == 0
    assert torch.count_nonzero(moving) > 0


def test_training_is_deterministic():
    def train() -> list[Tensor]:
        torch.manual_seed(0)
        cnn = create_model("mlclnet", prior=0.01)
        model = TeacherStudent(cnn, SCAM(4, 2, cnn.stage_channels, 5, scale=0.5))
        x, maps, y = torch.rand(2, 1, 16, 16), torch.randn(2, 2, 4, 1, 1), torch.rand(2, 1, 16, 16)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            teacher, student = model(x, maps, fixed="student")
            assert model.scam is not None
            inner_loss(teacher, student, y, model.scam.gate).backward()
            optimizer.step()
        return [value.clone() for value in model.state_dict().values()]

    assert all(torch.equal(a, b) for a, b in zip(train(), train(), strict=True))
