"""ForwardMode: the unroll's hypergradient to rounding, by another way."""

from __future__ import annotations

import math
import sys
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
import torchopt
from torch import Tensor, nn

from bilevel import (
    Batches,
    ForwardMode,
    LearnedSettings,
    Problem,
    Unrolled,
    hypergradient,
    supported_optimizers,
)
from bilevel.errors import BatchError, DoubleBackwardError, OptimizerError, OptionError


def both(
    case: zoo.Case, optimizer: object, steps: int, chunk_size: int | None = 1, walked_back: int | None = 0
) -> list[Any]:
    found = []
    for method in (ForwardMode(steps, chunk_size, walked_back), Unrolled(steps)):
        torch.manual_seed(3)
        found.append(
            hypergradient(case.problem(), method, Batches(case.train[:steps]), case.val, optimizer=optimizer)
        )
    return found


@pytest.mark.parametrize("name", zoo.OPTIMIZERS)
@pytest.mark.parametrize("make", [zoo.reweighted_mlp, zoo.dead_relu_mlp])
def test_equals_unrolled_for_every_update_rule(name: str, make: Any) -> None:
    case = make()
    optimizer = zoo.OPTIMIZERS[name](case.inner.parameters())
    case.train_live(optimizer, 2)
    forward, unrolled = both(case, optimizer, 5)
    assert zoo.relative_error(forward, unrolled) < 1e-11
    torch.testing.assert_close(forward.inner_losses, unrolled.inner_losses, rtol=1e-13, atol=0)
    torch.testing.assert_close(forward.outer_loss, unrolled.outer_loss, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_equals_unrolled_for_a_parameter_without_dimensions(name: str) -> None:
    class Offset(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    inner, outer = Offset(), nn.ParameterDict({"log": torch.zeros(2, dtype=torch.float64)})
    target = torch.tensor([1.0, 2.0], dtype=torch.float64)
    found = [
        hypergradient(
            Problem(
                lambda net, weights, batch: (weights["log"].exp() * (net.value - batch).square()).sum(),
                lambda net, _, batch: net.value.square(),
                inner,
                outer,
            ),
            method,
            target,
            target,
            optimizer=zoo.OPTIMIZERS[name](inner.parameters()),
        )
        for method in (ForwardMode(4, walked_back=0), ForwardMode(4, walked_back=1), Unrolled(4))
    ]
    assert zoo.relative_error(found[0], found[2]) < 1e-12
    assert zoo.relative_error(found[1], found[2]) < 1e-12


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_equals_unrolled_with_batchnorm_and_dropout(name: str, chunk_size: int | None) -> None:
    case = zoo.conv_net()
    optimizer = zoo.OPTIMIZERS[name](case.inner.parameters())
    case.train_live(optimizer, 1)
    before = {key: value.clone() for key, value in case.inner.state_dict().items()}
    forward, unrolled = both(case, optimizer, 4, chunk_size)
    assert zoo.relative_error(forward, unrolled) < 1e-9
    assert all(torch.equal(value, before[key]) for key, value in case.inner.state_dict().items())


@pytest.mark.parametrize("walked_back", [1, 3, None, 9])
@pytest.mark.parametrize("name", ["momentum", "amsgrad"])
def test_equals_unrolled_wherever_tangents_meet_the_adjoint(name: str, walked_back: int | None) -> None:
    """Dropout is replayed, batch statistics evolve, and steps may be the mean over several batches."""
    case = zoo.conv_net(steps=8)
    optimizer = zoo.OPTIMIZERS[name](case.inner.parameters())
    case.train_live(optimizer, 1)
    case.train = [*case.train[:3], Batches(case.train[3:5], [1.0, 2.0]), *case.train[5:]]
    case.train[0] = Batches([case.train[0], case.train[1]])
    forward, unrolled = both(case, optimizer, 7, walked_back=walked_back)
    assert zoo.relative_error(forward, unrolled) < 1e-9
    torch.testing.assert_close(forward.inner_losses, unrolled.inner_losses, rtol=1e-12, atol=0)


def test_equals_central_differences_of_real_training() -> None:
    case = zoo.direct()  # the outer loss depends on λ as well
    optimizer = zoo.OPTIMIZERS["amsgrad"](case.inner.parameters())
    case.train_live(optimizer, 1)
    found = both(case, optimizer, 5)[0]
    assert zoo.relative_error(found, zoo.central_differences(case, optimizer, 5)) < 1e-6


@pytest.mark.parametrize("walked_back", [0, 1])
@pytest.mark.parametrize("make", [zoo.reweighted_mlp, zoo.dead_relu_mlp])
@pytest.mark.parametrize(
    "optimizer",
    [
        torchopt.rmsprop(0.01, momentum=0.5),
        torchopt.rmsprop(0.01, centered=True),
        torchopt.adam(0.02),
        torchopt.adamw(0.02, weight_decay=0.1),
        torchopt.adamax(0.02),
        torchopt.adagrad(0.1),
        torchopt.adadelta(0.5, eps=1e-3),
        torchopt.radam(0.02, betas=(0.9, 0.8)),
        torchopt.chain(torchopt.clip_grad_norm(0.1), torchopt.sgd(0.1, momentum=0.9)),
    ],
    ids=["rmsprop", "centered", "adam", "adamw", "adamax", "adagrad", "adadelta", "radam", "clip"],
)
def test_equals_unrolled_for_torchopt(optimizer: object, make: Any, walked_back: int) -> None:
    forward, unrolled = both(make(), optimizer, 4, walked_back=walked_back)
    assert zoo.relative_error(forward, unrolled) < 1e-10


OTHERS: dict[str, zoo.Optimizer] = {
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.02, weight_decay=0.05),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.8, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, lr_decay=0.1, weight_decay=0.02),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0, rho=0.8, eps=1e-3),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.02, betas=(0.9, 0.8)),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.02, weight_decay=0.05),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.1, lambd=0.1, t0=1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_equals_unrolled_for_the_other_update_rules_with_dead_units(name: str) -> None:
    case = zoo.dead_relu_mlp(steps=6)
    optimizer = OTHERS[name](case.inner.parameters())
    case.train_live(optimizer, 2)
    forward, unrolled = both(case, optimizer, 6)
    assert zoo.relative_error(forward, unrolled) < 1e-10


def test_covers_every_supported_optimiser() -> None:
    p = [nn.Parameter(torch.zeros(1))]
    tested = {type(make(p)).__name__ for make in (*OTHERS.values(), *zoo.OPTIMIZERS.values())}
    assert tested == {name.rpartition(".")[2] for name in supported_optimizers()}


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_learned_learning_rate(chunk_size: int | None) -> None:
    case = zoo.reweighted_mlp()
    case.outer.register_parameter("log_lr", nn.Parameter(torch.tensor(-1.5, dtype=torch.float64)))
    optimizer = LearnedSettings(
        torch.optim.SGD(case.inner.parameters(), lr=0.1, momentum=0.5), lr=lambda outer: outer["log_lr"].exp()
    )
    forward, unrolled = both(case, optimizer, 4, chunk_size)
    assert abs(float(unrolled["log_lr"])) > 1e-3
    assert zoo.relative_error(forward, unrolled) < 1e-12


def test_parameters_and_outer_parameters_used_at_some_steps_or_never() -> None:
    case = zoo.reweighted_mlp()
    case.inner = nn.ModuleDict({"body": zoo.mlp(4, 5), "even": zoo.mlp(5, 3), "odd": zoo.mlp(5, 3)})
    case.outer.register_parameter("spare", nn.Parameter(torch.ones(2, dtype=torch.float64)))

    def inner_loss(net: nn.ModuleDict, weights: nn.Module, batch: Any) -> Tensor:
        step, data = batch
        return zoo.weighted_loss(
            nn.Sequential(net["body"], net["odd" if step % 2 else "even"]), weights, data
        )

    case.inner_loss = inner_loss
    case.outer_loss = lambda net, weights, batch: zoo.plain_loss(
        nn.Sequential(net["body"], net["even"]), weights, batch
    )
    case.train = list(enumerate(case.train))
    optimizer = zoo.OPTIMIZERS["adam_l2"](case.inner.parameters())
    case.train_live(optimizer, 1)  # one head has a state to carry, the other has none
    forward, unrolled = both(case, optimizer, 5)
    assert zoo.relative_error(forward, unrolled) < 1e-11
    assert torch.equal(forward["spare"], torch.zeros(2, dtype=torch.float64))


def test_error_to_the_exact_hypergradient_shrinks_with_the_steps() -> None:
    ridge = zoo.Ridge()
    case = ridge.case()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.3)
    errors = [
        zoo.relative_error(
            hypergradient(
                case.problem(),
                ForwardMode(steps, walked_back=0),
                case.train[0],
                case.val,
                optimizer=optimizer,
            ),
            {"log": ridge.exact()},
        )
        for steps in (5, 20, 120)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-7
    rate = math.log(errors[1] / errors[0]) / 15  # linear convergence, as strong convexity promises
    assert rate < -0.05


class Once(torch.autograd.Function):
    """The square, which cannot be differentiated twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * slope


class SquaredWeights(nn.Module):
    def __init__(self, square: Any) -> None:
        super().__init__()
        self.root = nn.Parameter(torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64))
        self.square = square

    def forward(self, cluster: Tensor) -> Tensor:
        return self.square(self.root)[cluster]


def test_a_function_of_the_outer_parameters_that_is_differentiable_once_is_refused_by_the_tangents() -> None:
    """They differentiate G_λ; the adjoint differentiates G_w only, so it takes the function, and is right."""
    found = {}
    for name, square in (("once", Once.apply), ("twice", torch.square)):
        case = zoo.reweighted_mlp()
        case.outer = SquaredWeights(square)
        optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
        if name == "once":
            with pytest.raises(DoubleBackwardError, match="once_differentiable"):
                both(case, optimizer, 3)
        else:
            assert zoo.relative_error(*both(case, optimizer, 3)) < 1e-12
        for method in (Unrolled(3), ForwardMode(3)):
            found[name, method] = hypergradient(
                case.problem(), method, case.train[0], case.val, optimizer=optimizer
            )
    for method in (Unrolled(3), ForwardMode(3)):
        assert zoo.relative_error(found["once", method], found["twice", method]) < 1e-12


def test_no_tangents_are_made_where_all_steps_are_walked_back(monkeypatch: pytest.MonkeyPatch) -> None:
    case = zoo.reweighted_mlp()  # three outer coordinates
    module = sys.modules[ForwardMode.__module__]
    made: list[int] = []
    make = module._unit_directions
    monkeypatch.setattr(module, "_unit_directions", lambda outer: (made.append(1), make(outer))[1])
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    both(case, optimizer, 3, walked_back=None)
    assert not made
    both(case, optimizer, 4, walked_back=None)
    assert made


def test_refusals() -> None:
    case = zoo.reweighted_mlp()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    for options in ({"steps": 0}, {"steps": 1, "chunk_size": 0}, {"steps": 1, "walked_back": -1}):
        with pytest.raises(OptionError, match="ForwardMode"):
            ForwardMode(**options)
    with pytest.raises(BatchError, match="2 batches for 3 steps"):
        hypergradient(case.problem(), ForwardMode(3), Batches(case.train[:2]), case.val, optimizer=optimizer)
    case.inner.append(nn.Hardsigmoid())
    for walked_back in (0, None):
        method = ForwardMode(2, walked_back=walked_back)
        with pytest.raises(DoubleBackwardError):
            hypergradient(case.problem(), method, case.train[0], case.val, optimizer=optimizer)
    with pytest.raises(OptimizerError):
        hypergradient(case.problem(), ForwardMode(1), case.train[0], case.val)
