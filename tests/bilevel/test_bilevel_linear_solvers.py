"""Linear solvers: right answers, honest reports, negative curvature."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bilevel import ConjugateGradient, LinearSolver, LinearSolveWarning, Neumann
from bilevel.errors import OptionError


def system(eigenvalues: list[float], seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    n = len(eigenvalues)
    q, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))
    return q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T, torch.randn(n).double()


SPREAD = [0.5, 1.0, 1.5, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    "solver",
    [
        ConjugateGradient(max_iterations=50, tolerance=1e-12),
        ConjugateGradient(max_iterations=50, tolerance=1e-12, damping=0.3),
        Neumann(step_size=0.4, max_iterations=500, tolerance=1e-12),
        Neumann(step_size=0.4, max_iterations=500, tolerance=1e-12, damping=0.3),
    ],
)
def test_solves_and_reports(solver: Any) -> None:
    a, b = system(SPREAD)
    x, report = solver.solve(lambda v: a @ v, b)
    damped = a + solver.damping * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(x, torch.linalg.solve(damped, b), rtol=1e-10, atol=1e-11)
    assert report.converged
    assert not report.negative_curvature
    assert report.solver == type(solver).__name__
    assert report.damping == solver.damping
    assert report.residual <= 1e-12


@pytest.mark.parametrize("solver", [ConjugateGradient, lambda n: Neumann(0.4, n)])
def test_error_shrinks_with_the_budget_and_residual_is_the_true_one(solver: Any) -> None:
    a, b = system(SPREAD)
    errors = []
    for budget in (1, 2, 4, 6):
        products = 0

        def matvec(v: Tensor) -> Tensor:
            nonlocal products
            products += 1
            return a @ v

        x, report = solver(budget).solve(matvec, b)
        assert report.iterations == products <= budget
        assert report.residual == pytest.approx(float((b - a @ x).norm() / b.norm()), rel=1e-6, abs=1e-12)
        errors.append(float((x - torch.linalg.solve(a, b)).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 3


def test_conjugate_gradient_needs_one_product_for_a_multiple_of_the_identity() -> None:
    b = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    x, report = ConjugateGradient().solve(lambda v: 2 * v, b)
    torch.testing.assert_close(x, b / 2)
    assert report.iterations == 1
    assert report.converged


def test_conjugate_gradient_stops_at_negative_curvature_and_says_so() -> None:
    a, b = system([4.0, 3.0, 2.0, 1.0, 0.5, -0.3])
    with pytest.warns(LinearSolveWarning, match="negative curvature"):
        x, report = ConjugateGradient(max_iterations=50, tolerance=1e-12).solve(lambda v: a @ v, b)
    assert report.status == "negative curvature"
    assert report.negative_curvature
    assert not report.converged
    assert "damping" in report.advice
    assert report.residual == pytest.approx(float((b - a @ x).norm() / b.norm()))
    assert float(x.dot(a @ x)) > 0  # what was built so far lies where the curvature is positive


def test_negative_first_direction_gives_zero() -> None:
    b = torch.ones(3, dtype=torch.float64)
    with pytest.warns(LinearSolveWarning):
        x, report = ConjugateGradient().solve(lambda v: -v, b)
    assert torch.equal(x, torch.zeros(3, dtype=torch.float64))
    assert report.residual == 1.0


def test_enough_damping_cures_negative_curvature() -> None:
    a, b = system([4.0, 3.0, 2.0, 1.0, 0.5, -0.3])
    x, report = ConjugateGradient(50, 1e-12, damping=0.5).solve(lambda v: a @ v, b)
    assert report.converged
    torch.testing.assert_close(x, torch.linalg.solve(a + 0.5 * torch.eye(6).double(), b))


def test_neumann_stops_where_the_residual_is_least() -> None:
    a, b = system([4.0, 3.0, 2.0, 1.0, 0.5, -0.3])
    with pytest.warns(LinearSolveWarning, match="negative curvature"):
        x, report = Neumann(0.3, max_iterations=500).solve(lambda v: a @ v, b)
    assert report.status == "negative curvature"
    assert 0 < report.residual < 1
    assert report.residual == pytest.approx(float((b - a @ x).norm() / b.norm()))

    a, b = system(SPREAD)
    with pytest.warns(LinearSolveWarning, match="step_size"):
        _, report = Neumann(0.9, max_iterations=500).solve(lambda v: a @ v, b)
    assert report.status == "diverged"
    assert not report.negative_curvature


@pytest.mark.parametrize("solver", [ConjugateGradient(), Neumann(0.1)])
def test_zero_and_not_finite(solver: LinearSolver) -> None:
    x, report = solver.solve(lambda v: 3 * v, torch.zeros(4))
    assert torch.equal(x, torch.zeros(4))
    assert report.converged
    assert report.residual == 0.0
    with pytest.warns(LinearSolveWarning, match="not finite"):
        x, report = solver.solve(lambda v: v * float("nan"), torch.ones(4))
    assert report.status == "not finite"
    assert torch.isfinite(x).all()
    with pytest.warns(LinearSolveWarning, match="not finite"):
        _, report = solver.solve(lambda v: v, torch.full((4,), float("nan")))
    assert report.iterations == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConjugateGradient(max_iterations=0),
        lambda: ConjugateGradient(damping=-1.0),
        lambda: Neumann(step_size=0.0),
        lambda: Neumann(step_size=0.1, tolerance=-1.0),
    ],
)
def test_bad_options_are_refused(make: Any) -> None:
    with pytest.raises(OptionError, match="expected"):
        make()
