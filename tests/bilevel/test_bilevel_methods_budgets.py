"""Errors that shrink with the budget, down to what no budget can mend; and one scale for every method."""

from __future__ import annotations

from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
from torch import Tensor, nn

from bilevel import (
    SAMA,
    ConjugateGradient,
    DenseSolve,
    FiniteDifference,
    FixedPoint,
    ForwardMode,
    GaussNewton,
    HypergradientMethod,
    Identity,
    Implicit,
    Neumann,
    Nystrom,
    Penalty,
    Unrolled,
    hypergradient,
)


def ask(case: zoo.Case, method: HypergradientMethod, lr: float = 0.1) -> Any:
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=lr)
    return hypergradient(case.problem(), method, case.train[0], case.val, optimizer=optimizer)


def shifted_ridge(distance: float) -> tuple[zoo.Case, dict[str, Tensor]]:
    """The inner parameters at a distance from the minimum, and the hypergradient at the minimum."""
    ridge = zoo.Ridge()
    with torch.no_grad():
        ridge.model.weight += distance * torch.linspace(-1, 1, 5, dtype=torch.float64)
    return ridge.case(), {"log": ridge.exact()}


@pytest.mark.filterwarnings("ignore::bilevel.LinearSolveWarning")
@pytest.mark.parametrize(
    ("make", "budgets"),
    [
        (lambda n: Implicit(ConjugateGradient(n, 0.0)), (1, 2, 3, 5)),
        (lambda n: Implicit(Neumann(0.3, n, 0.0)), (1, 5, 20, 80)),
        (lambda n: Implicit(FixedPoint(0.3, 0.2, n, 0.0)), (1, 5, 20, 80)),
        (lambda n: Unrolled(80, truncate=n), (1, 5, 20, 80)),
    ],
    ids=["conjugate gradient", "neumann", "fixed point", "truncated unroll"],
)
def test_the_hypergradients_error_shrinks_with_the_budget(make: Any, budgets: tuple[int, ...]) -> None:
    case, exact = shifted_ridge(0.0)
    errors = [zoo.relative_error(ask(case, make(budget), 0.3), exact) for budget in budgets]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4
    assert errors[-1] < errors[0] / 100


def test_nystrom_hypergradients_error_shrinks_with_the_rank() -> None:
    """To the damped system, which is what it solves."""
    case, _ = shifted_ridge(0.0)
    exact = ask(case, Implicit(DenseSolve(damping=0.5)))
    errors = [
        sum(zoo.relative_error(ask(case, Implicit(Nystrom(rank, 0.5, seed))), exact) for seed in range(5)) / 5
        for rank in (1, 2, 3, 4, 5)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10


@pytest.mark.parametrize(
    ("method", "tolerance"),
    [
        (Unrolled(1), 1e-12),
        (Unrolled(3, mode="graph"), 1e-12),
        (ForwardMode(2, walked_back=0), 1e-12),
        (Unrolled(2, products="forward-over-reverse"), 1e-12),
        (Implicit(ConjugateGradient()), 1e-12),
        (Implicit(Neumann(0.5, 60)), 1e-5),
        (Implicit(FixedPoint(0.5, 0.0, 60)), 1e-5),
        (Implicit(Nystrom(1, damping=1e-9)), 1e-8),
        (Implicit(DenseSolve()), 1e-12),
        (GaussNewton(1e-14), 1e-12),
        (FiniteDifference(1.0), 1e-9),
        (Identity(), 1e-12),
        (SAMA("exact"), 1e-12),
        (SAMA(), 1e-9),
        (Penalty(1e6, 60, 0.5), 1e-5),
    ],
    ids=repr,
)
def test_every_method_answers_on_one_scale(method: HypergradientMethod, tolerance: float) -> None:
    """G = ½(w − λ)² and F = 3w, where every method's approximation is exact: dF/dλ = 3."""
    inner, outer = nn.Linear(1, 1, bias=False).double(), zoo.Scale(1)
    with torch.no_grad():
        inner.weight.fill_(0.7)
        outer.log.fill_(-0.4)
    case = zoo.Case(
        lambda net, lam, batch: 0.5 * (net.weight[0] - lam.log).square().sum(),
        lambda net, lam, batch: 3 * net.weight.sum(),
        inner,
        outer,
        [None],
        None,
    )
    assert float(ask(case, method, lr=1.0)["log"]) == pytest.approx(3, rel=tolerance)


def test_an_accurate_linear_solve_stalls_at_the_inner_residual_which_is_reported() -> None:
    errors, residuals = [], []
    for distance in (0.04, 0.02, 0.01):
        case, exact = shifted_ridge(distance)
        found = [ask(case, Implicit(one)) for one in (ConjugateGradient(50, 1e-13), DenseSolve())]
        assert zoo.relative_error(found[0], found[1]) < 1e-9
        assert all(one.linear_solves[0].residual < 1e-12 for one in found)
        errors.append(zoo.relative_error(found[0], exact))
        residuals.append(float(found[0].inner_gradient_norm))
        loss = case.inner_loss(case.inner, case.outer, case.train[0])
        gradient = torch.autograd.grad(loss, list(case.inner.parameters()))
        assert residuals[-1] == pytest.approx(float(torch.cat([g.flatten() for g in gradient]).norm()))
    for small, large in ((1, 0), (2, 1)):
        assert residuals[small] == pytest.approx(residuals[large] / 2, rel=1e-6)
        assert errors[small] == pytest.approx(errors[large] / 2, rel=0.05)
