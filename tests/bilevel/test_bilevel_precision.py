"""Types and devices: what runs under autocast and what does not, parameters of several types."""

from __future__ import annotations

from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bilevel import (
    SAMA,
    ConjugateGradient,
    FiniteDifference,
    ForwardMode,
    GaussNewton,
    Identity,
    Implicit,
    Nystrom,
    Penalty,
    Problem,
    Solver,
    Unrolled,
    UpdateRule,
    check,
    hypergradient,
)
from bilevel._rng import RngState
from bilevel.errors import ParameterError

METHODS = [
    Unrolled(3),
    Unrolled(3, mode="graph"),
    Unrolled(3, products="forward-over-reverse"),
    ForwardMode(3, walked_back=0),
    ForwardMode(3, walked_back=1),
    Implicit(ConjugateGradient()),
    Implicit(Nystrom(2)),
    GaussNewton(),
    FiniteDifference(0.1),
    SAMA(),
    SAMA("exact"),
    Identity(0.1),
    Penalty(10.0, 2, 0.05),
]


class Vector(nn.Module):
    """One parameter."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)


class Preconditioned(UpdateRule):
    """w ← w − A g, by a matrix product, which autocast would round to bfloat16."""

    matrix = 0.05 * torch.tensor([[1.001, 0.3], [0.3, 0.9003]])

    def init(self, params: Any) -> Any:
        return ()

    def update(self, params: Any, grads: Any, state: Any, outer: Any) -> Any:
        return tuple(w - self.matrix @ grad for w, grad in zip(params, grads, strict=True)), state


def pointwise(model: Vector, weights: Vector, batch: Tensor) -> Tensor:
    """No operator of it heeds autocast."""
    return (weights.w.exp() * (model.w - batch).square()).sum() + 0.1 * model.w.pow(4).sum()


def target(model: Vector, weights: Vector, batch: Tensor) -> Tensor:
    return (model.w - 2 * batch).square().sum() + 0.1 * weights.w.square().sum()


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_only_the_losses_run_under_autocast(method: Any) -> None:
    problem = Problem(
        pointwise, target, Vector(torch.tensor([0.31, -0.7])), Vector(torch.tensor([0.123, 0.4]))
    )
    train, val = torch.tensor([0.57, 0.11]), torch.tensor([0.23, -0.61])
    expected = hypergradient(problem, method, train, val, optimizer=Preconditioned())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = hypergradient(problem, method, train, val, optimizer=Preconditioned())
    assert torch.equal(found["w"], expected["w"])


def test_live_updates_run_outside_of_autocast() -> None:
    moved = []
    for on in (False, True):
        inner, outer = Vector(torch.tensor([0.31, -0.7])), Vector(torch.zeros(2))
        solver = Solver(
            pointwise,
            target,
            inner=inner,
            outer=outer,
            inner_optimizer=Preconditioned(),
            outer_optimizer=Preconditioned(),
            hypergradient=GaussNewton(),
        )
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=on):
            solver.step(torch.tensor([0.57, 0.11]), torch.tensor([0.23, -0.61]))
        moved.append((inner.w.detach(), outer.w.detach()))
    assert torch.equal(moved[0][0], moved[1][0])
    assert torch.equal(moved[0][1], moved[1][1])


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("shape", [(), (2,)])
def test_a_hypergradient_has_the_type_of_its_parameter(method: Any, shape: tuple[int, ...]) -> None:
    """A scalar takes on the other type where a vector does not."""
    torch.manual_seed(0)
    model, weights = nn.Linear(3, 1).double(), Vector(torch.full(shape, 0.3))
    x, y = torch.randn(8, 3).double(), torch.randn(8).double()

    def inner_loss(model: nn.Module, weights: Vector, batch: Any) -> Tensor:
        return weights.w.exp().sum().double() * F.mse_loss(model(x)[:, 0], y) + model.weight.square().sum()

    def outer_loss(model: nn.Module, weights: Vector, batch: Any) -> Tensor:
        return F.mse_loss(model(x)[:, 0], 2 * y) + 0.1 * weights.w.sum().double()

    solver = Solver(
        inner_loss,
        outer_loss,
        inner=model,
        outer=weights,
        inner_optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        outer_optimizer=torch.optim.Adam(weights.parameters(), lr=0.1),
        hypergradient=method,
    )
    found = solver.hypergradient(None, None)["w"]
    assert (found.dtype, found.shape) == (torch.float32, shape)
    solver.step(None, None)
    assert weights.w.dtype == torch.float32


def test_complex_parameters_are_refused() -> None:
    weights = nn.Linear(2, 2).double()
    for name, inner, outer in (
        ("inner", Vector(torch.zeros(2, dtype=torch.complex128)), weights),
        ("outer", weights, Vector(torch.zeros(2, dtype=torch.complex128))),
    ):
        with pytest.raises(ParameterError, match=rf"{name}\.w(.|\n)*view_as_complex"):
            Problem(zoo.plain_loss, zoo.plain_loss, inner, outer)
        (inner if name == "inner" else outer).requires_grad_(False)
        with pytest.raises(ParameterError, match="no parameter requires"):  # a constant may be complex
            Problem(zoo.plain_loss, zoo.plain_loss, inner, outer)


def test_the_generator_of_mps_is_asked_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        """As torch.mps was in older versions."""

        state = torch.tensor([7])

        def get_rng_state(self) -> Tensor:
            return self.state

        def set_rng_state(self, state: Tensor) -> None:
            self.state = state

    module = Module()
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    before = RngState.capture([torch.device("mps:0")])
    module.state = torch.tensor([8])
    before.restore()
    assert module.state.item() == 7


def test_torch_s_default_device_is_not_where_random_directions_are_drawn() -> None:
    """With `torch.set_default_device("cuda")` a generator on the CPU would not fit."""
    ridge = zoo.Ridge()
    case = ridge.case()
    problem, (train,) = case.problem(), case.train
    rules = [make(case.inner.parameters(), lr=0.1) for make in (torch.optim.NAdam, torch.optim.ASGD)]
    with torch.device("meta"):
        found = hypergradient(problem, Implicit(Nystrom(5, damping=1e-9)), train, case.val)
        report = check(problem, Implicit(ConjugateGradient()), train, case.val, directions=1)
        for rule in rules:
            assert float(hypergradient(problem, Unrolled(2), train, case.val, optimizer=rule).norm()) > 0
    assert zoo.relative_error(found, {"log": ridge.exact()}) < 1e-6
    assert report.passed


def test_a_constant_slope_can_be_written_to() -> None:
    """Clipping does so, and fused optimisers read it as it lies in memory."""
    model, weights = Vector(torch.ones(3)), Vector(torch.zeros(3))
    problem = Problem(
        lambda model, weights, batch: model.w.square().sum(),
        lambda model, weights, batch: model.w.sum() + weights.w.sum(),
        model,
        weights,
    )
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    weights.w.grad = hypergradient(problem, Unrolled(1), None, None, optimizer=sgd)["w"]
    assert weights.w.grad.stride() == (1,)
    nn.utils.clip_grad_norm_(weights.parameters(), 1.0)
    torch.testing.assert_close(weights.w.grad, torch.full((3,), 3**-0.5), rtol=1e-4, atol=0)
