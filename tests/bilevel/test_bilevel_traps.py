"""Traps that other libraries fall into, one test each; those with a test elsewhere have none here."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
import torch.nn.functional as F
import torchopt
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bilevel import (
    SAMA,
    Batches,
    FiniteDifference,
    ForwardMode,
    GaussNewton,
    HypergradientMethod,
    Identity,
    Implicit,
    LearnedSettings,
    Neumann,
    Penalty,
    Unrolled,
    hypergradient,
)
from bilevel.diagnostics import find_obstacles
from bilevel.errors import CheckpointError, DoubleBackwardError, NonFiniteError, UnsupportedOptimizerError

SECOND_ORDER: list[HypergradientMethod] = [
    Unrolled(2),
    Unrolled(2, mode="graph"),
    ForwardMode(2, walked_back=0),
    Implicit(Neumann(0.01, 2, damping=1.0)),
    Identity(0.1),
    SAMA("exact"),
]
FIRST_ORDER: list[HypergradientMethod] = [
    GaussNewton(),
    FiniteDifference(0.1),
    SAMA(),
    Penalty(10.0, 2, 0.05),
]


class Wrap(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def ask(case: zoo.Case, method: HypergradientMethod, lr: float = 0.1) -> Any:
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=lr)
    return hypergradient(case.problem(), method, case.train[0], case.val, optimizer=optimizer)


def mlp_with(function: Callable[[Tensor], Tensor]) -> zoo.Case:
    """The function sees hidden values of shape [9, 6]."""
    case = zoo.reweighted_mlp()
    case.inner.insert(1, Wrap(function))
    return case


def deform_conv2d(x: Tensor) -> Tensor:
    ops = pytest.importorskip("torchvision").ops
    image, offset = x.flatten()[:16].view(1, 1, 4, 4), x.new_zeros(1, 2, 4, 4)
    return x * ops.deform_conv2d(image, offset, x.new_ones(1, 1, 1, 1)).mean()


def roi_align(x: Tensor) -> Tensor:
    ops = pytest.importorskip("torchvision").ops
    box = x.new_tensor([[0, 0.0, 0.0, 2.0, 2.0]])
    return x * ops.roi_align(x.flatten()[:16].view(1, 1, 4, 4), box, (1, 1)).mean()


def ctc_loss(x: Tensor) -> Tensor:
    size = torch.tensor([6]), torch.tensor([2])
    return x * F.ctc_loss(x[:6].log_softmax(1)[:, None], torch.tensor([[1, 2]]), *size)


def embedding_bag(x: Tensor) -> Tensor:
    weights = x.mean(1)[:, None]
    index = torch.arange(len(x))[:, None] % 5
    return F.embedding_bag(index, x.new_ones(5, 6), mode="sum", per_sample_weights=weights)


@pytest.mark.parametrize("function", [deform_conv2d, roi_align, ctc_loss, embedding_bag])
def test_operators_without_double_backward(function: Callable[[Tensor], Tensor]) -> None:
    for method in SECOND_ORDER:
        with pytest.raises(DoubleBackwardError, match="inner_loss"):
            ask(mlp_with(function), method)
    for method in FIRST_ORDER:
        assert float(ask(mlp_with(function), method).norm()) > 0
    case = mlp_with(function)
    (found,) = find_obstacles(case.problem(), case.train[0])
    assert function.__name__ in found.operator
    assert found.module == "inner.1 (Wrap)"


def test_torch_compile() -> None:
    """The backend that needs no compiler stands for all: they share the part that refuses."""
    case = mlp_with(torch.compile(torch.sin, backend="aot_eager"))
    for method in SECOND_ORDER:
        with pytest.raises(DoubleBackwardError, match=r"no torch\.compile|no \n?torch\.compile"):
            ask(case, method)
    (found,) = find_obstacles(case.problem(), case.train[0])
    assert found.operator == "torch.compile"
    plain = mlp_with(torch.sin)
    assert zoo.relative_error(ask(case, GaussNewton()), ask(plain, GaussNewton())) < 1e-12


@pytest.mark.parametrize("method", SECOND_ORDER + FIRST_ORDER, ids=repr)
def test_reentrant_checkpoint(method: HypergradientMethod) -> None:
    case = mlp_with(lambda x: checkpoint(torch.sin, x, use_reentrant=True))
    with pytest.raises(CheckpointError, match=r"(inner|outer)_loss(.|\n)*use_reentrant=False"):
        ask(case, method)
    case = mlp_with(lambda x: checkpoint(torch.sin, x, use_reentrant=False))
    if method != Unrolled(2, mode="graph"):  # see Unrolled
        assert zoo.relative_error(ask(case, method), ask(mlp_with(torch.sin), method)) < 1e-12


def grid_sample(x: Tensor) -> Tensor:
    grid = 0.9 * torch.tanh(x[None, :, None, :2].expand(1, -1, 6, 2))
    return x + F.grid_sample(x[None, None], grid, align_corners=False)[0, 0]


def cdist(x: Tensor) -> Tensor:
    return x * torch.cdist(x, x.flip(0) + 0.3).mean()


def huber_loss(x: Tensor) -> Tensor:
    return x * F.huber_loss(x, torch.full_like(x, 0.2), delta=0.5)


@pytest.mark.parametrize("function", [grid_sample, cdist, huber_loss])
def test_operators_without_forward_mode_are_exact_in_every_mode(function: Any) -> None:
    case = mlp_with(function)
    optimizer = zoo.OPTIMIZERS["adamw"](case.inner.parameters())
    expected = zoo.central_differences(case, optimizer, 3)
    for method in (
        Unrolled(3),
        Unrolled(3, mode="graph"),
        Unrolled(3, products="auto"),
        ForwardMode(3, None, walked_back=0),
        ForwardMode(3, walked_back=0),
    ):
        found = hypergradient(case.problem(), method, Batches(case.train[:3]), case.val, optimizer=optimizer)
        assert zoo.relative_error(found, expected) < 1e-7, method


@pytest.mark.parametrize("make", [torchopt.adam, torchopt.adamw])
def test_the_accelerated_kernel_of_torchopt(make: Any) -> None:
    """Its derivative is wrong by 4e-6, so it is refused."""
    case = zoo.dead_relu_mlp()
    optimizer = make(0.02, use_accelerated_op=True)
    with pytest.raises(UnsupportedOptimizerError, match="use_accelerated_op=False"):
        hypergradient(case.problem(), Unrolled(3), case.train[0], case.val, optimizer=optimizer)
    with pytest.raises(UnsupportedOptimizerError, match="AdamOp"):
        case.solver(optimizer, Unrolled(3))


def test_learned_learning_rates_leave_ties_frozen_parameters_and_groups_alone() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
            self.second.weight = self.first.weight
            self.head.bias.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))
            return out

    case = zoo.reweighted_mlp()
    case.inner = Tied().double()
    case.outer.rate = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))
    frozen = case.inner.head.bias.detach().clone()

    def make(rate: float) -> torch.optim.SGD:
        groups = [
            {"params": [case.inner.first.weight, case.inner.first.bias], "lr": rate},
            {"params": [*case.inner.head.parameters(), case.inner.second.bias], "momentum": 0.5},
        ]
        return torch.optim.SGD(groups, lr=0.05)

    def live(rate: float) -> float:
        still = {name: torch.zeros_like(one) for name, one in case.outer.named_parameters()}
        return zoo.live_outer_loss(case, make(rate), still, 3)

    settings = LearnedSettings(make(0.2), lr=["rate", None])
    solver = case.solver(settings, Unrolled(3), outer_optimizer=torch.optim.SGD(case.outer.parameters(), 0.0))
    slope = (live(0.2 - 2e-4) - 8 * live(0.2 - 1e-4) + 8 * live(0.2 + 1e-4) - live(0.2 + 2e-4)) / 12e-4
    found = solver.hypergradient(Batches(case.train[:3]), case.val)
    assert float(found["rate"]) == pytest.approx(slope, rel=1e-7)
    solver.step(Batches(case.train[:3]), case.val)
    assert case.inner.second.weight is case.inner.first.weight
    assert torch.equal(case.inner.head.bias, frozen)
    assert [group["lr"] for group in settings.optimizer.param_groups] == [0.2, 0.05]
    assert [group["momentum"] for group in settings.optimizer.param_groups] == [0.0, 0.5]


@pytest.mark.parametrize("method", SECOND_ORDER + FIRST_ORDER, ids=repr)
def test_batchnorm_counts_a_solver_step_as_its_live_inner_steps_only(method: HypergradientMethod) -> None:
    case = zoo.conv_net()
    solver = case.solver(torch.optim.SGD(case.inner.parameters(), lr=0.05), method, inner_steps=2)
    solver.outer_step(case.train[0], case.val)
    assert int(case.inner[1].num_batches_tracked) == 0
    for _ in range(3):
        solver.step(case.train[0], case.val)
    assert int(case.inner[1].num_batches_tracked) == 6


@pytest.mark.parametrize("cls", [torch.optim.NAdam, torch.optim.ASGD])
def test_resume_keeps_the_type_of_the_optimisers_scalars(cls: Any) -> None:
    """torch casts them to the parameters' type on loading, so that float64 runs would go on differently."""

    def build() -> tuple[zoo.Case, Any]:
        case = zoo.reweighted_mlp()
        return case, case.solver(cls(case.inner.parameters(), lr=0.02), Unrolled(2))

    case, solver = build()
    for _ in range(3):
        solver.step(case.train[0], case.val)
    state = solver.state_dict()
    other, resumed = build()
    resumed.load_state_dict(state)
    for _ in range(3):
        expected, found = solver.step(case.train[1], case.val), resumed.step(case.train[1], case.val)
        assert found.inner_loss == expected.inner_loss
    for mine, twin in zip(case.inner.parameters(), other.inner.parameters(), strict=True):
        assert torch.equal(mine, twin)


@pytest.mark.filterwarnings("ignore::bilevel.LinearSolveWarning")
@pytest.mark.parametrize("method", SECOND_ORDER + FIRST_ORDER, ids=repr)
@pytest.mark.parametrize("level", ["inner_loss", "outer_loss"])
def test_nothing_that_is_not_finite_reaches_the_parameters(method: HypergradientMethod, level: str) -> None:
    case = zoo.reweighted_mlp()
    sound = getattr(case, level)
    setattr(case, level, lambda *args: sound(*args) * math.inf)
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    before = copy.deepcopy((case.inner.state_dict(), case.outer.state_dict()))
    with pytest.raises(NonFiniteError, match=level):
        case.solver(optimizer, method).step(case.train[0], case.val)
    info = case.solver(optimizer, method, on_nonfinite="skip").outer_step(case.train[0], case.val)
    assert info.skipped_total == 1
    for module, state in zip((case.inner, case.outer), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_float32_unrolls_through_rectifiers_and_pooling_stay_near_float64() -> None:
    torch.manual_seed(0)
    case = zoo.conv_net(dropout=0.0)
    case.inner = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    ).double()
    answers = {}
    for kind in (torch.float64, torch.float32):
        case.inner.to(kind)
        case.outer.to(kind)
        train = [(x.to(kind), y, cluster) for x, y, cluster in case.train]
        optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1, momentum=0.9)
        for mode in ("adjoint", "graph"):
            answers[kind, mode] = hypergradient(
                case.problem(),
                Unrolled(4, mode=mode),  # type: ignore[arg-type]
                Batches(train),
                (case.val[0].to(kind), case.val[1]),
                optimizer=optimizer,
            )
    exact = answers[torch.float64, "adjoint"]
    assert zoo.relative_error(answers[torch.float64, "graph"], exact) < 1e-12
    for mode in ("adjoint", "graph"):
        single = answers[torch.float32, mode]
        assert single["logits"].dtype == torch.float32
        assert zoo.relative_error({"logits": single["logits"].double()}, exact) < 1e-3


class WrittenOut(nn.Module):
    """Weight norm in operators that can be differentiated twice."""

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return g * v / torch.norm_except_dim(v, 2, 0)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return torch.norm_except_dim(weight, 2, 0), weight


def test_weight_norm_whose_second_derivative_is_wrong_in_torch() -> None:
    """Its derivative holds the norms constant: the hypergradient would be off by a tenth of a per cent."""
    normed = nn.utils.parametrizations.weight_norm
    case = zoo.reweighted_mlp()
    normed(case.inner[0])
    for method in SECOND_ORDER:
        with pytest.raises(DoubleBackwardError, match="norms constant"):
            ask(case, method)
    for method in FIRST_ORDER:
        assert float(ask(case, method).norm()) > 0
    (found,) = find_obstacles(case.problem(), case.train[0])
    assert "parametrizations.weight" in found.module
    assert "norm_except_dim" in found.instead

    mended = zoo.reweighted_mlp()
    nn.utils.parametrize.register_parametrization(mended.inner[0], "weight", WrittenOut())
    within = zoo.reweighted_mlp()  # an outer network is differentiated once
    within.outer = normed(nn.Linear(3, 3)).double()
    within.inner_loss = lambda net, outer, batch: (
        outer(F.one_hot(batch[2], 3).double()).exp().mean(1)
        * F.cross_entropy(net(batch[0]), batch[1], reduction="none")
    ).mean()
    for one in (mended, within):
        optimizer = torch.optim.SGD(one.inner.parameters(), lr=0.1, momentum=0.9)
        expected = zoo.central_differences(one, optimizer, 2)
        for method in (Unrolled(2), ForwardMode(2, walked_back=0)):
            slope = hypergradient(one.problem(), method, Batches(one.train[:2]), one.val, optimizer=optimizer)
            assert zoo.relative_error(slope, expected) < 1e-7
