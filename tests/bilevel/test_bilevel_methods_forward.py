"""ForwardMode: the unroll's hypergradient to rounding, by another way."""

from __future__ import annotations

import math
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
import torchopt
from torch import Tensor, nn

from bilevel import Batches, ForwardMode, Unrolled, UpdateRule, hypergradient
from bilevel.errors import BatchError, DoubleBackwardError, OptimizerError, OptionError


def both(case: zoo.Case, optimizer: object, steps: int, chunk_size: int | None = None) -> list[Any]:
    found = []
    for method in (ForwardMode(steps, chunk_size), Unrolled(steps)):
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


def test_equals_central_differences_of_real_training() -> None:
    case = zoo.direct()  # the outer loss depends on λ as well
    optimizer = zoo.OPTIMIZERS["amsgrad"](case.inner.parameters())
    case.train_live(optimizer, 1)
    found = both(case, optimizer, 5)[0]
    assert zoo.relative_error(found, zoo.central_differences(case, optimizer, 5)) < 1e-6


@pytest.mark.parametrize("make", [zoo.reweighted_mlp, zoo.dead_relu_mlp])
@pytest.mark.parametrize(
    "optimizer",
    [
        torchopt.rmsprop(0.01, momentum=0.5),
        torchopt.adamw(0.02, weight_decay=0.1),
        torchopt.adamax(0.02),
        torchopt.chain(torchopt.clip_grad_norm(0.1), torchopt.sgd(0.1, momentum=0.9)),
    ],
    ids=["rmsprop", "adamw", "adamax", "clip"],
)
def test_equals_unrolled_for_torchopt(optimizer: object, make: Any) -> None:
    forward, unrolled = both(make(), optimizer, 4)
    assert zoo.relative_error(forward, unrolled) < 1e-11


class LearnedSGD(UpdateRule):
    """w ← w − exp(log_lr)·g, where log_lr is an outer parameter."""

    uses_outer = True

    def init(self, params: Any) -> Any:
        return ()

    def update(self, params: Any, grads: Any, state: Any, outer: Any) -> Any:
        lr = outer["log_lr"].exp()
        return tuple(p if g is None else p - lr * g for p, g in zip(params, grads, strict=True)), state


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_learned_learning_rate(chunk_size: int | None) -> None:
    case = zoo.reweighted_mlp()
    case.outer.register_parameter("log_lr", nn.Parameter(torch.tensor(-1.5, dtype=torch.float64)))
    forward, unrolled = both(case, LearnedSGD(), 4, chunk_size)
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
            hypergradient(case.problem(), ForwardMode(steps), case.train[0], case.val, optimizer=optimizer),
            {"log": ridge.exact()},
        )
        for steps in (5, 20, 120)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-7
    rate = math.log(errors[1] / errors[0]) / 15  # linear convergence, as strong convexity promises
    assert rate < -0.05


def test_refusals() -> None:
    case = zoo.reweighted_mlp()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    for options in ({"steps": 0}, {"steps": 1, "chunk_size": 0}):
        with pytest.raises(OptionError, match="ForwardMode"):
            ForwardMode(**options)
    with pytest.raises(BatchError, match="2 batches for 3 steps"):
        hypergradient(case.problem(), ForwardMode(3), Batches(case.train[:2]), case.val, optimizer=optimizer)
    case.inner.append(nn.Hardsigmoid())
    with pytest.raises(DoubleBackwardError):
        hypergradient(case.problem(), ForwardMode(1), case.train[0], case.val, optimizer=optimizer)
    with pytest.raises(OptimizerError):
        hypergradient(case.problem(), ForwardMode(1), case.train[0], case.val)
