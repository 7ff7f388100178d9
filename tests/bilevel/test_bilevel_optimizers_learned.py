"""Learning rate, momentum and weight decay as outer parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
from torch import Tensor, nn

from bilevel import (
    SAMA,
    Batches,
    GaussNewton,
    Hypergradient,
    LearnedSettings,
    Unrolled,
    compare,
    hypergradient,
)
from bilevel.errors import OptimizerError, OptionError, UnsupportedOptimizerError
from bilevel.optim import as_rule


class Hyper(nn.Module):
    """Optimiser settings beside cluster weights."""

    def __init__(self, **values: float) -> None:
        super().__init__()
        for name, value in values.items():
            setattr(self, name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))
        self.logits = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, cluster: Tensor) -> Tensor:
        return self.logits.exp()[cluster]


def case_with(**values: float) -> zoo.Case:
    case = zoo.dead_relu_mlp()
    case.outer = Hyper(**values)
    return case


def rate(outer: Any) -> Tensor:
    return outer["log_lr"].exp()


LEARNED: dict[str, tuple[dict[str, float], Callable[[Any], LearnedSettings]]] = {
    "sgd": (
        {"log_lr": -2.0, "momentum": 0.6, "decay": 0.03},
        lambda p: LearnedSettings(
            torch.optim.SGD(p, lr=9.0, momentum=0.1), lr=rate, momentum="momentum", weight_decay="decay"
        ),
    ),
    "nesterov_from_zero": (
        {"log_lr": -2.0, "momentum": 0.0, "decay": 0.0},
        lambda p: LearnedSettings(
            torch.optim.SGD(p, lr=9.0, momentum=0.1, nesterov=True),
            lr=rate,
            momentum="momentum",
            weight_decay="decay",
        ),
    ),
    "adam": (
        {"log_lr": -4.0, "beta1": 0.8, "decay": 0.03},
        lambda p: LearnedSettings(torch.optim.Adam(p, lr=9.0), lr=rate, beta1="beta1", weight_decay="decay"),
    ),
    "adamw": (
        {"log_lr": -4.0, "decay": 0.0},
        lambda p: LearnedSettings(torch.optim.AdamW(p, lr=9.0), lr=rate, weight_decay="decay"),
    ),
    "rmsprop": (
        {"log_lr": -4.0, "momentum": 0.5},
        lambda p: LearnedSettings(torch.optim.RMSprop(p, lr=9.0), lr=rate, momentum="momentum"),
    ),
    "adamax": (
        {"log_lr": -4.0, "beta1": 0.7, "decay": 0.1},
        lambda p: LearnedSettings(
            torch.optim.Adamax(p, lr=9.0), lr=rate, beta1="beta1", weight_decay="decay"
        ),
    ),
    "radam": (
        {"log_lr": -4.0, "beta1": 0.7, "decay": 0.1},
        lambda p: LearnedSettings(
            torch.optim.RAdam(p, lr=9.0, betas=(0.9, 0.8)), lr=rate, beta1="beta1", weight_decay="decay"
        ),
    ),
    "nadam": (
        {"log_lr": -4.0, "decay": 0.1},
        lambda p: LearnedSettings(torch.optim.NAdam(p, lr=9.0), lr=rate, weight_decay="decay"),
    ),
    "adagrad": (
        {"log_lr": -2.0, "decay": 0.1},
        lambda p: LearnedSettings(torch.optim.Adagrad(p, lr=9.0), lr=rate, weight_decay="decay"),
    ),
    "adadelta": (
        {"log_lr": 0.0, "decay": 0.1},
        lambda p: LearnedSettings(torch.optim.Adadelta(p, eps=1e-3), lr=rate, weight_decay="decay"),
    ),
}


def live_outer_loss(case: zoo.Case, learned: LearnedSettings, shift: dict[str, float], steps: int) -> float:
    """F after really training copies with torch.optim at the shifted settings."""
    inner, outer, learned = copy.deepcopy((case.inner, case.outer, learned))
    with torch.no_grad():
        for name, value in shift.items():
            outer.get_parameter(name).add_(value)
    learned.write(dict(outer.named_parameters()))
    for step in range(steps):
        learned.optimizer.zero_grad()
        case.inner_loss(inner, outer, case.train[step % 5]).backward(inputs=list(inner.parameters()))
        learned.optimizer.step()
    return float(case.outer_loss(inner, outer, case.val).detach())


@pytest.mark.parametrize("name", LEARNED)
def test_hypergradient_flows_through_the_settings(name: str) -> None:
    values, make = LEARNED[name]
    case = case_with(**values)
    learned = make(case.inner.parameters())
    solver = case.solver(learned, Unrolled(4))
    solver.inner_step(case.train[0])
    solver.inner_step(case.train[1])
    steps = 5
    found: list[Hypergradient] = [
        case.solver(learned, Unrolled(steps, mode=mode)).hypergradient(Batches(case.train), case.val)
        for mode in ("adjoint", "graph")
    ]
    assert zoo.relative_error(found[0], found[1]) < 1e-9
    width = 1e-4
    for setting in values:
        points = [live_outer_loss(case, learned, {setting: k * width}, steps) for k in (-2, -1, 1, 2)]
        slope = (points[0] - 8 * points[1] + 8 * points[2] - points[3]) / (12 * width)
        assert float(found[0][setting]) == pytest.approx(slope, rel=1e-6, abs=1e-9), setting
        assert abs(slope) > 1e-8


def test_live_steps_take_the_learned_settings_group_by_group() -> None:
    case = case_with(log_lr=-2.0, beta1=0.7)
    optimizer = torch.optim.Adam(
        [{"params": case.inner[0].parameters()}, {"params": case.inner[2].parameters(), "lr": 0.5}], lr=9.0
    )
    learned = LearnedSettings(optimizer, lr=[rate, None], beta1="beta1")
    assert learned.names == ("lr", "beta1")
    solver = case.solver(learned, Unrolled(3))
    found = solver.hypergradient(case.train[0], case.val)
    for _ in range(3):
        solver.inner_step(case.train[0])
    assert float(found.outer_loss) == pytest.approx(
        float(case.outer_loss(case.inner, case.outer, case.val).detach()), rel=1e-12
    )
    assert [group["lr"] for group in optimizer.param_groups] == [
        pytest.approx(float(torch.tensor(-2.0).exp())),
        0.5,
    ]
    assert optimizer.param_groups[0]["betas"] == (0.7, 0.999)


def test_a_learning_rate_is_learned() -> None:
    case = case_with(log_lr=-7.0)
    learned = LearnedSettings(torch.optim.SGD(case.inner.parameters(), lr=1.0), lr=rate)
    outer_optimizer = torch.optim.Adam(case.outer.parameters(), lr=0.1)
    solver = case.solver(learned, Unrolled(5), outer_optimizer=outer_optimizer)
    losses = [solver.outer_step(case.train[0], case.train[0][:2]).outer_loss for _ in range(30)]
    assert losses[-1] < 0.95 * losses[0]
    assert case.outer.log_lr.item() > -6.0


def test_a_method_that_does_not_see_the_optimiser_does_not_answer_zero() -> None:
    case = case_with(lr=0.1)
    learned = LearnedSettings(torch.optim.SGD(case.inner.parameters(), lr=0.1), lr="lr")
    problem, batch = case.problem(), (case.train[0], case.val)
    for optimizer in (learned, as_rule(learned, problem.inner_parameters())):
        with pytest.raises(OptimizerError, match="learn its settings"):
            hypergradient(problem, GaussNewton(), *batch, optimizer=optimizer)
    for subject, optimizer in ((problem, learned), (case.solver(learned, Unrolled(1)), None)):
        table = compare(
            subject, [Unrolled(1), GaussNewton()], reference=Unrolled(1), batches=[batch], optimizer=optimizer
        )
        assert table.results[0].failure is None
        assert "learn its settings" in str(table.results[1].failure)
    one = hypergradient(problem, SAMA("exact"), *batch, optimizer=learned)
    assert abs(float(one["lr"])) > 0


def test_misuse_is_named() -> None:
    case = case_with(lr=0.1)
    parameters = list(case.inner.parameters())
    sgd = torch.optim.SGD(parameters, lr=0.1)
    with pytest.raises(OptionError, match="no setting"):
        LearnedSettings(sgd)
    with pytest.raises(OptionError, match="entries"):
        LearnedSettings(sgd, lr=["lr", "lr"])
    with pytest.raises(OptionError, match=r"dampening(.|\n)*lr, momentum, weight_decay"):
        case.solver(LearnedSettings(sgd, dampening="lr"), Unrolled(1))
    with pytest.raises(OptionError, match="no outer parameter"):
        case.solver(LearnedSettings(sgd, lr="rate"), Unrolled(1)).step(case.train[0], case.val)
    with pytest.raises(OptionError, match="not one number"):
        case.solver(LearnedSettings(sgd, lr="logits"), Unrolled(1)).step(case.train[0], case.val)
    with pytest.raises(OptimizerError, match=r"GaussNewton(.|\n)*learn its settings"):
        case.solver(LearnedSettings(sgd, lr="lr"), GaussNewton())
    rprop = LearnedSettings(torch.optim.Rprop(parameters), lr="lr")
    with pytest.raises(UnsupportedOptimizerError, match="sign"):
        case.solver(rprop, Unrolled(1))
    outer = torch.optim.SGD(case.outer.parameters(), lr=0.1)
    with pytest.raises(OptionError, match="inner optimiser"):
        case.solver(sgd, Unrolled(1), outer_optimizer=LearnedSettings(outer, lr="lr"))
