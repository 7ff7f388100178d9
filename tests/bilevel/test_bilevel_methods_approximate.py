"""FiniteDifference, Identity, SAMA, Penalty: what they equal exactly, and how fast their errors shrink."""

from __future__ import annotations

import math
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
import torchopt
from torch import Tensor, nn

from bilevel import (
    SAMA,
    Batches,
    FiniteDifference,
    HypergradientMethod,
    Identity,
    Implicit,
    Neumann,
    Penalty,
    Unrolled,
    UpdateRule,
    hypergradient,
)
from bilevel.errors import OptionError


def ask(case: zoo.Case, method: HypergradientMethod, optimizer: object = None) -> Any:
    torch.manual_seed(3)
    return hypergradient(case.problem(), method, case.train[0], case.val, optimizer=optimizer)


def sgd(case: zoo.Case, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(case.inner.parameters(), lr=lr)


def linear_outer(case: zoo.Case) -> zoo.Case:
    """The same inner problem, judged by c·w + |λ|²: F_w is the same everywhere."""
    torch.manual_seed(9)
    slopes = [torch.randn_like(p) for p in case.inner.parameters()]

    def outer_loss(model: nn.Module, weights: nn.Module, batch: Any) -> Tensor:
        along = sum(((p * c).sum() for p, c in zip(model.parameters(), slopes, strict=True)), torch.zeros(()))
        return along + sum((p.square().sum() for p in weights.parameters()), torch.zeros(()))

    case.outer_loss = outer_loss
    return case


def order(errors: list[float], factor: float) -> float:
    """The measured order of convergence of errors at budgets that differ by a factor."""
    return math.log(errors[0] / errors[-1]) / math.log(factor) / (len(errors) - 1)


@pytest.mark.parametrize("make", [zoo.reweighted_mlp, zoo.conv_net])
def test_finite_difference_tends_to_one_unrolled_step_of_second_order(make: Any) -> None:
    case = make()  # conv_net: BatchNorm, and the dropout masks of the three inner gradients must be one
    exact = ask(case, Unrolled(1), sgd(case, 0.2))
    found = [ask(case, FiniteDifference(0.2, eps)) for eps in (0.1, 0.05, 0.025)]
    errors = [zoo.relative_error(one, exact) for one in found]
    assert order(errors, 2) == pytest.approx(2, abs=0.1)
    assert zoo.relative_error(ask(case, FiniteDifference(0.2, 1e-4)), exact) < 1e-6
    torch.testing.assert_close(found[0].outer_loss, exact.outer_loss)


def test_finite_difference_is_exact_where_the_mixed_product_is_linear_in_w() -> None:
    case = zoo.direct()
    exact = ask(case, Unrolled(1), sgd(case, 0.2))
    assert zoo.relative_error(ask(case, FiniteDifference(0.2, 0.1)), exact) < 1e-12


def test_finite_difference_averages_batches_into_one_step() -> None:
    case = zoo.reweighted_mlp()
    batches = Batches(case.train)
    found = hypergradient(case.problem(), FiniteDifference(0.2, 1e-3), batches, case.val)
    exact = hypergradient(case.problem(), Unrolled(1), Batches([batches]), case.val, optimizer=sgd(case, 0.2))
    assert zoo.relative_error(found, exact) < 1e-5


@pytest.mark.parametrize("make", [zoo.reweighted_mlp, zoo.direct])
def test_identity_is_one_unrolled_step_where_the_outer_gradient_is_constant(make: Any) -> None:
    case = linear_outer(make())
    found = ask(case, Identity(0.2))
    assert zoo.relative_error(found, ask(case, Unrolled(1), sgd(case, 0.2))) < 1e-12
    assert zoo.relative_error(found, ask(case, Implicit(Neumann(0.2, 1, damping=9.0)))) < 1e-12


def test_identity_tends_to_one_unrolled_step_of_first_order() -> None:
    case = zoo.reweighted_mlp()
    errors = [
        zoo.relative_error(ask(case, Identity(lr)), ask(case, Unrolled(1), sgd(case, lr)))
        for lr in (0.08, 0.04, 0.02)
    ]
    assert order(errors, 2) == pytest.approx(1, abs=0.1)


def test_identity_is_exact_where_the_hessian_is_the_identity() -> None:
    """G = ½|w − λ|², so w* = λ and dF/dλ = F_w(λ)."""
    inner, outer = nn.Linear(4, 1, bias=False).double(), zoo.Scale(4)
    with torch.no_grad():
        inner.weight[0] = outer.log
    case = zoo.Case(
        lambda net, lam, batch: 0.5 * (net.weight[0] - lam.log).square().sum(),
        lambda net, lam, batch: net.weight.sin().sum(),
        inner,
        outer,
        [None],
        None,
    )
    torch.testing.assert_close(ask(case, Identity())["log"], outer.log.detach().cos())
    double = ask(case, Identity(2.0))
    torch.testing.assert_close(double["log"], 2 * outer.log.detach().cos())


@pytest.mark.parametrize("name", zoo.OPTIMIZERS)
def test_sama_is_one_unrolled_step_where_the_outer_gradient_is_constant(name: str) -> None:
    case = linear_outer(zoo.dead_relu_mlp())
    optimizer = zoo.OPTIMIZERS[name](case.inner.parameters())
    case.train_live(optimizer, 2)
    exact = ask(case, Unrolled(1), optimizer)
    assert zoo.relative_error(ask(case, SAMA("exact"), optimizer), exact) < 1e-11


@pytest.mark.parametrize("make", [zoo.reweighted_mlp, zoo.conv_net])
def test_sama_finite_differences_are_of_second_order(make: Any) -> None:
    case = make()
    optimizer = zoo.OPTIMIZERS["adamw"](case.inner.parameters())
    case.train_live(optimizer, 2)
    exact = ask(case, SAMA("exact"), optimizer)
    errors = [zoo.relative_error(ask(case, SAMA(eps=eps), optimizer), exact) for eps in (0.04, 0.02, 0.01)]
    assert order(errors, 2) == pytest.approx(2, abs=0.1)
    assert zoo.relative_error(ask(case, SAMA(eps=1e-4), optimizer), exact) < 1e-5


def test_sama_tends_to_one_unrolled_step_of_first_order() -> None:
    case = zoo.reweighted_mlp()
    optimizer = torch.optim.Adam(case.inner.parameters(), lr=0.02)
    case.train_live(optimizer, 3)
    errors = []
    for lr in (0.008, 0.004, 0.002):
        optimizer.param_groups[0]["lr"] = lr
        errors.append(
            zoo.relative_error(ask(case, SAMA("exact"), optimizer), ask(case, Unrolled(1), optimizer))
        )
    assert order(errors, 2) == pytest.approx(1, abs=0.1)


class LearnedSGD(UpdateRule):
    """w ← w − exp(log_lr)·g, where log_lr is an outer parameter."""

    def init(self, params: Any) -> Any:
        return ()

    def update(self, params: Any, grads: Any, state: Any, outer: Any) -> Any:
        lr = outer["log_lr"].exp()
        return tuple(p if g is None else p - lr * g for p, g in zip(params, grads, strict=True)), state


@pytest.mark.parametrize("mixed", ["exact", "finite-difference"])
def test_sama_with_a_learned_learning_rate_and_with_torchopt(mixed: Any) -> None:
    case = linear_outer(zoo.reweighted_mlp())
    case.outer.register_parameter("log_lr", nn.Parameter(torch.tensor(-1.5, dtype=torch.float64)))
    for rule in (LearnedSGD(), torchopt.rmsprop(0.01)):
        exact = ask(case, Unrolled(1), rule)
        assert zoo.relative_error(ask(case, SAMA(mixed, 1e-4), rule), exact) < 1e-6


def strongly_convex() -> zoo.Case:
    """Ridge regression, judged by a loss that is not quadratic."""
    case = zoo.Ridge().case()
    case.outer_loss = lambda model, scale, batch: (
        ((model(batch[0])[:, 0] - batch[1]).square() + 0.1).sqrt().mean() + 0.01 * scale().sum()
    )
    return case


def closed_form(case: zoo.Case) -> dict[str, Tensor]:
    ridge = zoo.Ridge()
    log = case.outer.log.detach()
    w = ridge.solution(log).requires_grad_()
    x, y = case.val
    loss = ((x @ w - y).square() + 0.1).sqrt().mean()
    slope = torch.autograd.grad(loss, w)[0]
    w = w.detach()
    indirect = -log.exp() * w * torch.linalg.solve(ridge.hessian(log), slope)
    return {"log": indirect + 0.01 * log.exp()}


def test_penalty_error_shrinks_as_one_over_gamma() -> None:
    case = strongly_convex()
    exact = closed_form(case)
    errors = [zoo.relative_error(ask(case, Penalty(gamma, 150, 0.3)), exact) for gamma in (10, 40, 160)]
    assert order(errors, 4) == pytest.approx(1, abs=0.1)
    assert zoo.relative_error(ask(case, Penalty(1e6, 150, 0.3)), exact) < 1e-5


def test_penalty_error_shrinks_with_its_steps_and_is_that_of_neumann() -> None:
    case = strongly_convex()
    exact = closed_form(case)
    errors = []
    for steps in (1, 4, 16, 64):
        found = ask(case, Penalty(1e6, steps, 0.3))
        neumann = ask(case, Implicit(Neumann(0.3, steps, 0.0)))
        assert zoo.relative_error(found, neumann) < 1e-5
        errors.append(zoo.relative_error(found, exact))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 30


def test_penalty_sees_one_dropout_mask() -> None:
    """With different masks at y and z the difference, times γ, would be nothing but noise."""
    case = zoo.conv_net()
    size = float(ask(case, Penalty(1e2, 2, 0.05)).norm())
    assert float(ask(case, Penalty(1e5, 2, 0.05)).norm()) == pytest.approx(size, rel=0.5)


METHODS = {
    "finite difference": FiniteDifference(0.1),
    "identity": Identity(),
    "sama": SAMA(),
    "sama exact": SAMA("exact"),
    "penalty": Penalty(10.0, 2, 0.1),
}


@pytest.mark.parametrize("name", METHODS)
def test_live_state_is_not_touched_and_the_answer_is_repeatable(name: str) -> None:
    case = zoo.conv_net()
    optimizer = zoo.OPTIMIZERS["adamw"](case.inner.parameters())
    case.train_live(optimizer, 1)
    solver = case.solver(optimizer, METHODS[name])
    before, state = solver.state_dict(), torch.get_rng_state()
    found = [solver.hypergradient(case.train[0], case.val) for _ in range(2)]
    assert torch.equal(found[0]["logits"], found[1]["logits"])
    assert float(found[0].norm()) > 0
    assert found[0].inner_gradient_norm is not None
    assert torch.equal(state, torch.get_rng_state())
    after = solver.state_dict()
    for part in ("inner", "outer"):
        assert all(torch.equal(value, after[part][key]) for key, value in before[part].items())
    info = solver.step(case.train[0], case.val)
    assert info.outer_loss == pytest.approx(float(found[0].outer_loss))


@pytest.mark.parametrize(
    "name", [name for name in METHODS if "finite" in name or name in ("sama", "penalty")]
)
def test_first_order_methods_need_no_second_derivative(name: str) -> None:
    case = zoo.reweighted_mlp()
    case.inner.append(nn.Hardsigmoid())
    found = ask(case, METHODS[name], sgd(case, 0.1))
    assert torch.isfinite(found["logits"]).all()


def test_a_vector_of_zeros_gives_the_direct_term() -> None:
    case = linear_outer(zoo.reweighted_mlp())
    direct = {"logits": 2 * case.outer.logits.detach()}
    case.outer_loss = lambda model, weights, batch: (
        weights.logits.square().sum() + sum(0 * p.sum() for p in model.parameters())
    )
    for name, method in METHODS.items():
        assert zoo.relative_error(ask(case, method, sgd(case, 0.1)), direct) < 1e-12, name


@pytest.mark.parametrize(
    "make",
    [
        lambda: FiniteDifference(0.0),
        lambda: FiniteDifference(0.1, eps=0.0),
        lambda: Identity(-1.0),
        lambda: SAMA("other"),  # type: ignore[arg-type]
        lambda: SAMA(eps=-1.0),
        lambda: Penalty(0.0, 1, 0.1),
        lambda: Penalty(1.0, 0, 0.1),
    ],
)
def test_bad_options_are_refused(make: Any) -> None:
    with pytest.raises(OptionError, match="expected"):
        make()
