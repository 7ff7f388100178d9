"""DenseSolve, FixedPoint and Nystrom: right answers, honest reports, errors that shrink with the budget."""

from __future__ import annotations

from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
from torch import Tensor

from bilevel import DenseSolve, FixedPoint, Implicit, LinearSolveWarning, Neumann, Nystrom, hypergradient
from bilevel.errors import OptionError

SPREAD = [0.5, 1.0, 1.5, 2.0, 3.0, 4.0]
SADDLE = [4.0, 3.0, 2.0, 1.0, 0.5, -0.3]


def system(eigenvalues: list[float], seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    n = len(eigenvalues)
    q, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))
    return q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T, torch.randn(n).double()


def damped(a: Tensor, damping: float) -> Tensor:
    return a + damping * torch.eye(len(a), dtype=a.dtype)


@pytest.mark.parametrize(
    "solver",
    [
        DenseSolve(),
        DenseSolve(damping=0.3),
        FixedPoint(0.4, max_iterations=500, tolerance=1e-12),
        FixedPoint(0.5, momentum=0.25, max_iterations=500, tolerance=1e-12, damping=0.3),
        Nystrom(rank=6, damping=0.3),
        Nystrom(rank=50, damping=1e-3),
    ],
    ids=repr,
)
def test_solves_and_reports(solver: Any) -> None:
    a, b = system(SPREAD)
    calls = []

    def matvec(v: Tensor) -> Tensor:
        calls.append(v)
        return a @ v

    x, report = solver.solve(matvec, b)
    torch.testing.assert_close(x, torch.linalg.solve(damped(a, solver.damping), b), rtol=1e-9, atol=1e-10)
    assert report.converged
    assert not report.negative_curvature
    assert report.solver == type(solver).__name__
    assert report.damping == solver.damping
    assert report.iterations == len(calls)
    assert report.residual < 1e-10


def test_fixed_point_without_momentum_walks_as_neumann() -> None:
    a, b = system(SPREAD)
    for budget in (1, 3, 8):
        one, report = FixedPoint(0.3, 0.0, budget, 0.0).solve(lambda v: a @ v, b)
        other, expected = Neumann(0.3, budget, 0.0).solve(lambda v: a @ v, b)
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
        assert report.iterations == expected.iterations == budget
        assert report.residual == pytest.approx(expected.residual, rel=1e-10)


def test_fixed_point_error_shrinks_at_the_rate_of_theory_and_momentum_helps() -> None:
    a, b = system([0.05, 0.2, 0.7, 1.0, 2.0, 4.0])  # condition number 80
    exact = torch.linalg.solve(a, b)

    def error(budget: int, step_size: float, momentum: float) -> float:
        x, report = FixedPoint(step_size, momentum, budget, 0.0).solve(lambda v: a @ v, b)
        true = float((b - a @ x).norm() / b.norm())
        assert report.residual == pytest.approx(true, rel=1e-6, abs=1e-12)
        return float((x - exact).norm() / exact.norm())

    plain = [error(n, 2 / 4.05, 0.0) for n in (5, 20, 80, 320)]
    assert plain == sorted(plain, reverse=True)
    assert plain[3] == pytest.approx(plain[2] * (79 / 81) ** 240, rel=0.1)
    root = (80**0.5 - 1) / (80**0.5 + 1)
    heavy = [error(n, (1 + root) ** 2 / 4.0, root**2) for n in (5, 20, 80, 160)]
    assert heavy == sorted(heavy, reverse=True)
    assert heavy[2] < plain[2] / 1e3


def test_nystrom_error_shrinks_with_the_rank() -> None:
    a, b = system([4 * 0.5**k for k in range(16)])
    exact = torch.linalg.solve(damped(a, 0.05), b)
    errors = []
    for rank in (1, 3, 6, 9, 16):
        errors.append(0.0)
        for seed in range(5):
            x, report = Nystrom(rank, 0.05, seed).solve(lambda v: a @ v, b)
            true = float((b - damped(a, 0.05) @ x).norm() / b.norm())
            assert report.residual == pytest.approx(true, rel=1e-6, abs=1e-12)
            assert report.iterations == rank + 1
            errors[-1] += float((x - exact).norm() / exact.norm()) / 5
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10
    assert errors[-2] < errors[0] / 10


def test_nystrom_of_the_right_rank_is_exact_and_its_seed_is_all_that_counts() -> None:
    a, b = system([3.0, 2.0, 1.0] + [0.0] * 9)
    x, _ = Nystrom(3, 0.1).solve(lambda v: a @ v, b)
    torch.testing.assert_close(x, torch.linalg.solve(damped(a, 0.1), b), rtol=1e-9, atol=1e-9)
    full, _ = system([4 * 0.75**k for k in range(12)])
    state = torch.get_rng_state()
    answers = [Nystrom(4, 0.1, seed).solve(lambda v: full @ v, b)[0] for seed in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(answers[0], answers[1])
    assert not torch.allclose(answers[0], answers[2])


def test_dense_solve_answers_at_a_saddle_and_says_so() -> None:
    a, b = system(SADDLE)
    with pytest.warns(LinearSolveWarning, match="negative curvature"):
        x, report = DenseSolve().solve(lambda v: a @ v, b)
    torch.testing.assert_close(x, torch.linalg.solve(a, b))
    assert report.status == "negative curvature"
    assert report.negative_curvature
    assert DenseSolve(damping=0.5).solve(lambda v: a @ v, b)[1].converged


def test_dense_solve_of_a_singular_system() -> None:
    a, b = system([2.0, 1.0, 0.0, 0.0])
    with pytest.warns(LinearSolveWarning, match="raise damping"):
        x, report = DenseSolve().solve(lambda v: a @ v, b)
    assert report.status == "singular"
    torch.testing.assert_close(x, torch.linalg.pinv(a, rtol=1e-10) @ b)
    assert report.residual == pytest.approx(float((b - a @ x).norm() / b.norm()))
    reachable = a @ b
    x, report = DenseSolve().solve(lambda v: a @ v, reachable)
    assert report.converged
    torch.testing.assert_close(a @ x, reachable)


@pytest.mark.parametrize("solver", [FixedPoint(0.3, 0.2, 400), Nystrom(6, 0.1)], ids=repr)
def test_negative_curvature_is_met_and_reported(solver: Any) -> None:
    a, b = system(SADDLE)
    with pytest.warns(LinearSolveWarning, match="negative curvature"):
        x, report = solver.solve(lambda v: a @ v, b)
    assert report.status == "negative curvature"
    assert report.negative_curvature
    left = b - damped(a, solver.damping) @ x
    assert report.residual == pytest.approx(float(left.norm() / b.norm()))


def test_fixed_point_divergence_is_reported_and_the_best_iterate_answered() -> None:
    a, b = system(SPREAD)
    with pytest.warns(LinearSolveWarning, match="step_size"):
        x, report = FixedPoint(0.9, max_iterations=500).solve(lambda v: a @ v, b)
    assert report.status == "diverged"
    assert report.iterations < 500
    assert report.residual == pytest.approx(float((b - a @ x).norm() / b.norm()))
    assert report.residual <= 1


@pytest.mark.parametrize("solver", [DenseSolve(), FixedPoint(0.1), Nystrom()], ids=repr)
def test_zero_and_not_finite(solver: Any) -> None:
    x, report = solver.solve(lambda v: 3 * v, torch.zeros(4))
    assert torch.equal(x, torch.zeros(4))
    assert report.converged
    assert report.residual == 0.0
    for matvec, b in ((lambda v: v * float("nan"), torch.ones(4)), (lambda v: v, torch.ones(4) / 0)):
        with pytest.warns(LinearSolveWarning, match="not finite"):
            x, report = solver.solve(matvec, b)
        assert report.status == "not finite"
        assert torch.isfinite(x).all()


@pytest.mark.parametrize(
    ("solver", "tolerance"),
    [
        (DenseSolve(), 1e-12),
        (FixedPoint(0.3, 0.2, 3000, 1e-12), 1e-9),
        (Nystrom(5, damping=1e-9), 1e-7),
    ],
    ids=["dense", "fixed point", "nystrom"],
)
def test_implicit_equals_closed_form_on_ridge(solver: Any, tolerance: float) -> None:
    ridge = zoo.Ridge()
    case = ridge.case()
    found = hypergradient(case.problem(), Implicit(solver), case.train[0], case.val)
    assert zoo.relative_error(found, {"log": ridge.exact()}) < tolerance
    assert found.linear_solves[0].converged


def test_dense_solve_refuses_a_big_problem_by_name() -> None:
    case = zoo.reweighted_mlp()
    size = sum(p.numel() for p in case.inner.parameters())
    with pytest.raises(OptionError, match=rf"DenseSolve\(max_size\).*\n.*{size} inner parameters"):
        hypergradient(case.problem(), Implicit(DenseSolve(max_size=size - 1)), case.train[0], case.val)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DenseSolve(damping=-1.0),
        lambda: DenseSolve(max_size=0),
        lambda: FixedPoint(0.0),
        lambda: FixedPoint(0.1, momentum=1.0),
        lambda: Nystrom(rank=0),
        lambda: Nystrom(damping=0.0),
    ],
)
def test_bad_options_are_refused(make: Any) -> None:
    with pytest.raises(OptionError, match="expected"):
        make()
