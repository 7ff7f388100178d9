"""`check`: it passes what is exact, fails what is not, and names operators without a second derivative."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bilevel_zoo import Case, Ridge, conv_net, direct, mlp, reweighted_mlp, weighted_loss
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

import bilevel
from bilevel.diagnostics import find_obstacles
from bilevel.errors import OptionError


def state(case: Case) -> list[Tensor]:
    modules = (case.inner, case.outer)
    return [value.clone() for module in modules for value in module.state_dict().values()]


@pytest.mark.parametrize("make", [reweighted_mlp, direct, conv_net])
def test_exact_unrolls_pass_and_nothing_changes(make: Any) -> None:
    case = make()
    optimizer = torch.optim.Adam(case.inner.parameters(), lr=0.02)
    case.train_live(optimizer, 2)
    solver = case.solver(optimizer, bilevel.Unrolled(3))
    before, rng = state(case), torch.get_rng_state()
    report = bilevel.check(solver, None, bilevel.Batches(case.train[:3]), case.val, directions=2)
    assert report.passed, str(report)
    assert report.relative_error < 1e-6
    assert [one.name for one in report.directions] == ["along the hypergradient", "random 1", "random 2"]
    assert all(torch.equal(a, b) for a, b in zip(state(case), before, strict=True))
    assert torch.equal(torch.get_rng_state(), rng)
    assert "OK" in str(report)
    assert "can be differentiated twice" in str(report)


def test_what_is_not_exact_is_called_wrong() -> None:
    case = direct()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.2)
    solver = case.solver(optimizer, bilevel.Unrolled(4, truncate=1))
    report = bilevel.check(solver, None, case.train[0], case.val)
    assert report.passed is False
    assert report.relative_error > 1e-3
    assert "WRONG" in str(report)
    rank_one = bilevel.check(solver, bilevel.GaussNewton(), case.train[0], case.val, steps=2)
    assert rank_one.passed is False
    assert "after 2 inner steps" in str(rank_one)


def test_estimates_of_one_step_are_judged_by_one_step() -> None:
    """Against the minimum they would be wrong however well they do what they are for."""
    case = direct()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=1e-3, momentum=0.9)
    case.train_live(optimizer, 3)
    solver = case.solver(optimizer, bilevel.GaussNewton())
    one, several = case.train[0], bilevel.Batches(case.train[:3])

    def judged(method: bilevel.HypergradientMethod, train: Any = one, **options: Any) -> bilevel.CheckReport:
        return bilevel.check(solver, method, train, case.val, **options)

    for train in (one, several):  # several batches are one step on their mean
        report = judged(bilevel.FiniteDifference(0.5, eps=1e-3), train)
        assert report.passed, str(report)
        assert report.truth == "F after a step of gradient descent, with learning rate 0.5"
    assert judged(bilevel.FiniteDifference(0.5, eps=1e-3), steps=1).passed is False  # another learning rate
    for method, truth in (
        (bilevel.Identity(1e-3), "F after a step of gradient descent, with learning rate 0.001"),
        (bilevel.SAMA(), "F after 1 inner step"),
        (bilevel.SAMA("exact"), "F after 1 inner step"),
    ):
        report = judged(method, several, tolerance=1e-3)
        assert report.passed, str(report)
        assert report.truth == truth


def test_implicit_is_checked_at_the_minimum() -> None:
    ridge = Ridge()
    problem = ridge.case().problem()
    train, val = (ridge.x, ridge.y), (ridge.x_val, ridge.y_val)
    exact = bilevel.Implicit(bilevel.ConjugateGradient(20, tolerance=1e-12))
    report = bilevel.check(problem, exact, train, val)
    assert report.passed, str(report)
    assert report.inner_gradient_norm is not None
    assert report.inner_gradient_norm < 1e-12
    # The differences are those of the closed form.
    along = report.directions[0]
    assert along.differences == pytest.approx(float(ridge.exact().norm()), rel=1e-5)
    rough = bilevel.check(problem, bilevel.Implicit(bilevel.ConjugateGradient(1)), train, val)
    assert rough.passed is False
    assert "iteration limit" in str(rough)
    assert bilevel.check(problem, bilevel.GaussNewton(), train, val).passed is False


@pytest.mark.parametrize("hidden", [5, 60])  # with a dense Hessian, and by conjugate gradient
def test_implicit_is_checked_away_from_the_minimum_too(hidden: int) -> None:
    torch.manual_seed(0)
    model = mlp(4, hidden, 3)
    weights = bilevel.ClusterWeights(3).double()

    def inner(net: nn.Module, lam: nn.Module, batch: Any) -> Tensor:
        decay = sum(p.square().sum() for p in net.parameters())
        return weighted_loss(net, lam, batch) + 0.3 * decay

    case = reweighted_mlp()
    problem = bilevel.Problem(inner, case.outer_loss, model, weights)
    method = bilevel.Implicit(bilevel.ConjugateGradient(400, tolerance=1e-12))
    report = bilevel.check(problem, method, case.train[0], case.val, directions=1)
    assert report.passed, str(report)
    assert report.inner_gradient_norm is not None
    assert report.inner_gradient_norm > 0.1


def test_float32_is_judged_by_what_differences_can_tell() -> None:
    case = direct()
    case.inner.float()
    case.outer.float()
    train, val = (tuple(part.float() for part in batch) for batch in (case.train[0], case.val))
    solver = case.solver(torch.optim.SGD(case.inner.parameters(), lr=0.1), bilevel.Unrolled(2))
    report = bilevel.check(solver, None, train, val)
    assert report.passed, str(report)
    strict = bilevel.check(solver, None, train, val, tolerance=1e-12)
    assert strict.passed is None
    assert "use float64" in str(strict)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        heads = x[:, None, :, None].float()
        return F.scaled_dot_product_attention(heads, heads, heads)[:, 0, :, 0].double()


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Once.apply(x)
        return out


def problem_with(*modules: nn.Module) -> tuple[bilevel.Problem, Case]:
    case = reweighted_mlp(steps=1)
    case.inner = nn.Sequential(nn.Linear(4, 4).double(), *modules, nn.Linear(4, 3).double())
    return case.problem(), case


@pytest.mark.parametrize(
    ("module", "operator", "instead"),
    [
        (nn.Hardsigmoid(), "hardsigmoid", "clamp"),
        (Attention(), "scaled_dot_product", "SDPBackend.MATH"),
        (Custom(), "Once (autograd.Function marked", "GaussNewton"),
    ],
)
def test_obstacles_are_named_with_module_and_way_out(module: nn.Module, operator: str, instead: str) -> None:
    problem, case = problem_with(module)
    (found,) = find_obstacles(problem, case.train[0])
    assert operator in found.operator
    assert found.module == f"inner.1 ({type(module).__name__})"
    assert instead in found.instead
    report = bilevel.check(problem, bilevel.Implicit(bilevel.ConjugateGradient()), case.train[0], case.val)
    assert report.passed is False
    assert "CANNOT RUN" in str(report)
    assert str(found) in str(report)


def test_every_obstacle_is_found_at_once() -> None:
    problem, case = problem_with(nn.Hardsigmoid(), nn.Tanh(), Attention())

    def loss(model: nn.Module, weights: nn.Module, batch: Any) -> Tensor:
        x, y, cluster = batch
        return (weights(cluster) * F.multi_margin_loss(model(x), y, reduction="none")).mean()

    problem = bilevel.Problem(loss, case.outer_loss, case.inner, case.outer)
    found = {one.operator: one.module for one in find_obstacles(problem, case.train[0])}
    assert found["hardsigmoid"] == "inner.1 (Hardsigmoid)"
    assert found["scaled_dot_product_flash_attention_for_cpu"] == "inner.3 (Attention)"
    assert found["multi_margin_loss"].startswith("inner_loss (")
    report = bilevel.check(problem, bilevel.GaussNewton(), case.train[0], case.val)
    assert report.passed is None  # the method runs; what it should give cannot be found
    assert report.unmeasured is not None
    assert report.unmeasured in str(report)
    assert "steps=..." in str(report)
    assert "train the inner problem further" not in str(report)


def test_first_order_methods_are_judged_without_second_derivatives() -> None:
    problem, case = problem_with(nn.Hardsigmoid(), Attention())
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    options: dict[str, Any] = {"optimizer": optimizer, "directions": 1}
    report = bilevel.check(problem, bilevel.GaussNewton(), case.train[0], case.val, steps=2, **options)
    assert report.passed is False
    assert len(report.directions) == 2
    assert all(math.isfinite(one.differences) for one in report.directions)
    one_step = bilevel.FiniteDifference(0.1, eps=1e-3)
    report = bilevel.check(problem, one_step, case.train[0], case.val, **options, tolerance=1e-2)
    assert report.passed, str(report)


def test_a_truth_that_does_not_change_is_not_blamed_on_the_training() -> None:
    case = reweighted_mlp(steps=1)

    def unweighted(model: nn.Module, weights: nn.Module, batch: Any) -> Tensor:
        x, y, cluster = batch
        return F.cross_entropy(model(x), y) * (1 + 0 * weights(cluster).sum())

    problem = bilevel.Problem(unweighted, case.outer_loss, case.inner, case.outer)
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    report = bilevel.check(problem, bilevel.Unrolled(2), case.train[0], case.val, optimizer=optimizer)
    assert report.passed is None
    assert "does not change with λ" in str(report)


def test_operators_that_refuse_late_are_found_too() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(5, 3, mode="sum").double()

        def forward(self, x: Tensor) -> Tensor:
            return self.bag(torch.arange(len(x))[:, None] % 5, per_sample_weights=x.mean(1)[:, None])

    case = reweighted_mlp(steps=1)
    problem = bilevel.Problem(
        case.inner_loss, case.outer_loss, nn.Sequential(nn.Linear(4, 4).double(), Bag()), case.outer
    )
    found = find_obstacles(problem, case.train[0])
    assert found
    assert all("embedding_bag" in one.operator for one in found), found
    assert {one.module for one in found} == {"inner.1.bag (EmbeddingBag)"}


def test_healthy_networks_have_no_obstacles() -> None:
    for case in (reweighted_mlp(), conv_net(), direct()):
        assert find_obstacles(case.problem(), case.train[0]) == ()
    assert not case.inner[0]._forward_hooks


def test_bad_arguments_are_refused() -> None:
    case = reweighted_mlp()
    problem = case.problem()
    with pytest.raises(OptionError, match="method"):
        bilevel.check(problem, None, case.train[0], case.val)
    with pytest.raises(OptionError, match="tolerance"):
        bilevel.check(problem, bilevel.GaussNewton(), case.train[0], case.val, tolerance=0.0)
