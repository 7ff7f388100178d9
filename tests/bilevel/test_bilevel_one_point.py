"""Methods that look at one point: Implicit against closed forms, GaussNewton against its formula."""

from __future__ import annotations

from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bilevel import (
    Batches,
    ConjugateGradient,
    DenseSolve,
    GaussNewton,
    Implicit,
    LinearSolveWarning,
    Neumann,
    Unrolled,
    hypergradient,
)
from bilevel.errors import NonFiniteHypergradientError, OptionError


@pytest.mark.parametrize(
    "solver",
    [
        ConjugateGradient(max_iterations=20, tolerance=1e-14),
        Neumann(0.3, max_iterations=3000, tolerance=1e-12),
    ],
)
def test_implicit_equals_closed_form_on_ridge(solver: Any) -> None:
    ridge = zoo.Ridge()
    case = ridge.case()
    found = hypergradient(case.problem(), Implicit(solver), case.train[0], case.val)
    assert zoo.relative_error(found, {"log": ridge.exact()}) < 1e-9
    assert found.linear_solves[0].converged
    assert found.inner_gradient_norm is not None
    assert float(found.inner_gradient_norm) < 1e-12


def test_implicit_error_shrinks_with_the_budget() -> None:
    ridge = zoo.Ridge(features=12, samples=30)
    case = ridge.case()
    errors = [
        zoo.relative_error(
            hypergradient(case.problem(), Implicit(ConjugateGradient(n, 0.0)), case.train[0], case.val),
            {"log": ridge.exact()},
        )
        for n in (1, 3, 6, 12)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10


def test_long_unroll_tends_to_the_implicit_hypergradient() -> None:
    ridge = zoo.Ridge()
    case = ridge.case()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.3)
    errors = [
        zoo.relative_error(
            hypergradient(case.problem(), Unrolled(steps), case.train[0], case.val, optimizer=optimizer),
            {"log": ridge.exact()},
        )
        for steps in (5, 20, 150)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-8


def dense_implicit(case: zoo.Case, batch: Any) -> Tensor:
    """F_λ − G_λw G_ww⁻¹ F_w with matrices written out, for a Linear inner module and one outer parameter."""
    w = case.inner.weight.detach()
    ((name, lam),) = case.outer.named_parameters()

    def call(loss: Any, which: Any, w: Tensor, lam: Tensor) -> Tensor:
        both = nn.ModuleDict({"inner": case.inner, "outer": case.outer})
        both.forward = lambda: loss(case.inner, case.outer, which)  # type: ignore[method-assign]
        return torch.func.functional_call(both, {"inner.weight": w, f"outer.{name}": lam}, ())

    def inner(w: Tensor, lam: Tensor) -> Tensor:
        return call(case.inner_loss, batch, w, lam)

    n = w.numel()
    hessian = torch.autograd.functional.hessian(lambda w: inner(w, lam.detach()), w).reshape(n, n)

    def slope(lam: Tensor) -> Tensor:
        at = w.clone().requires_grad_()
        return torch.autograd.grad(inner(at, lam), at, create_graph=True)[0].flatten()

    mixed = torch.autograd.functional.jacobian(slope, lam.detach())  # [n, outer]
    at, lam_at = w.clone().requires_grad_(), lam.detach().clone().requires_grad_()
    f_w, f_lam = torch.autograd.grad(
        call(case.outer_loss, case.val, at, lam_at), (at, lam_at), allow_unused=True
    )
    indirect = mixed.T @ torch.linalg.solve(hessian, f_w.flatten())
    return (torch.zeros_like(lam) if f_lam is None else f_lam) - indirect


def softmax_regression() -> zoo.Case:
    """l2-regularised, with a learned weight decay a feature that also enters the outer loss."""
    torch.manual_seed(0)
    model = nn.Linear(5, 3, bias=False).double()

    def inner(net: nn.Module, scale: zoo.Scale, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(net(x), y) + (scale() * net.weight.square()).sum()

    def outer(net: nn.Module, scale: zoo.Scale, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(net(x), y) + 0.05 * scale().sum()

    def data() -> tuple[Tensor, Tensor]:
        return torch.randn(15, 5, dtype=torch.float64), torch.randint(3, (15,))

    return zoo.Case(inner, outer, model, zoo.Scale(5), [data(), data()], data())


def test_implicit_equals_dense_solve_with_direct_dependence() -> None:
    case = softmax_regression()
    method = Implicit(ConjugateGradient(max_iterations=40, tolerance=1e-14))
    found = hypergradient(case.problem(), method, case.train[0], case.val)
    assert zoo.relative_error(found, {"log": dense_implicit(case, case.train[0])}) < 1e-9


def test_several_batches_are_one_inner_loss() -> None:
    case = softmax_regression()
    method = Implicit(ConjugateGradient(max_iterations=40, tolerance=1e-14))
    found = hypergradient(case.problem(), method, Batches(case.train), Batches([case.val, case.val]))
    joined = tuple(torch.cat(parts) for parts in zip(*case.train, strict=True))
    assert zoo.relative_error(found, {"log": dense_implicit(case, joined)}) < 1e-9


def test_implicit_reports_negative_curvature_and_damping_helps() -> None:
    case = zoo.reweighted_mlp()
    with pytest.warns(LinearSolveWarning):
        found = hypergradient(case.problem(), Implicit(ConjugateGradient(50)), case.train[0], case.val)
    assert found.linear_solves[0].negative_curvature
    assert found.inner_gradient_norm is not None
    assert float(found.inner_gradient_norm) > 1e-3
    damped = hypergradient(
        case.problem(), Implicit(ConjugateGradient(50, damping=2.0)), case.train[0], case.val
    )
    assert damped.linear_solves[0].converged


def test_implicit_ignores_inner_parameters_that_the_inner_loss_does_not_use() -> None:
    ridge = zoo.Ridge()
    case = ridge.case()
    case.inner.register_parameter("spare", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    plain = case.outer_loss
    case.outer_loss = lambda model, scale, batch: plain(model, scale, batch) + model.spare.sum()
    found = hypergradient(case.problem(), Implicit(ConjugateGradient(20, 1e-14)), case.train[0], case.val)
    assert zoo.relative_error(found, {"log": ridge.exact()}) < 1e-9


def test_implicit_draws_dropout_once() -> None:
    case = zoo.conv_net()
    torch.manual_seed(5)
    first = hypergradient(case.problem(), Implicit(Neumann(0.01, 4)), case.train[0], case.val)
    torch.manual_seed(5)
    again = hypergradient(case.problem(), Implicit(Neumann(0.01, 4)), case.train[0], case.val)
    other = hypergradient(case.problem(), Implicit(Neumann(0.01, 4)), case.train[0], case.val)
    assert torch.equal(first["logits"], again["logits"])
    assert torch.equal(first["logits"], other["logits"])  # the generator was put back
    assert len(first.linear_solves) == 1


@pytest.mark.parametrize("eps", [1e-8, 0.5])
@pytest.mark.parametrize("make", [zoo.reweighted_mlp, zoo.direct])
def test_gauss_newton_is_its_formula(make: Any, eps: float) -> None:
    case = make()
    batch = case.train[0]
    found = hypergradient(case.problem(), GaussNewton(eps), batch, case.val)
    w, lam = list(case.inner.parameters()), dict(case.outer.named_parameters())
    inner = case.inner_loss(case.inner, case.outer, batch)
    g = torch.cat([x.flatten() for x in torch.autograd.grad(inner, w, retain_graph=True)])
    g_lam = torch.autograd.grad(inner, list(lam.values()))
    outer = case.outer_loss(case.inner, case.outer, case.val)
    f = torch.cat([x.flatten() for x in torch.autograd.grad(outer, w, retain_graph=True)])
    f_lam = torch.autograd.grad(outer, list(lam.values()), allow_unused=True)
    ratio = f.dot(g) / (g.square().sum() + eps)
    expected = {
        name: (0 if direct is None else direct) - ratio * slope
        for name, direct, slope in zip(lam, f_lam, g_lam, strict=True)
    }
    assert zoo.relative_error(found, expected) < 1e-12


def test_gauss_newton_by_hand_in_one_dimension() -> None:
    """G = exp(a·w), F = w²: G_w = aG and G_a = wG, so the formula gives −(2w/a)·w, and times a for log a."""
    inner = nn.Linear(1, 1, bias=False).double()
    outer = zoo.Scale(1)
    with torch.no_grad():
        inner.weight.fill_(0.7)

    def inner_loss(net: nn.Module, scale: zoo.Scale, batch: Any) -> Tensor:
        return torch.exp(scale()[0] * net.weight.sum())

    def outer_loss(net: nn.Module, scale: zoo.Scale, batch: Any) -> Tensor:
        return net.weight.sum().square()

    case = zoo.Case(inner_loss, outer_loss, inner, outer, [None], None)
    found = hypergradient(case.problem(), GaussNewton(1e-30), None, None)
    assert found["log"].item() == pytest.approx(-2 * 0.7**2, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_gauss_newton_points_where_the_exact_hypergradient_points(seed: int) -> None:
    """A model that has learned wrong labels from cluster 1: the weight of the clean cluster 0 must rise."""
    torch.manual_seed(seed)
    model = zoo.mlp(4, 3)
    weights = zoo.Scale(2)
    x, x_val = torch.randn(40, 4).double(), torch.randn(40, 4).double()
    rule = torch.randn(4, 3).double()
    y, y_val = (x @ rule).argmax(1), (x_val @ rule).argmax(1)
    y[20:] = (y[20:] + 1) % 3

    def inner_loss(net: nn.Module, scale: zoo.Scale, batch: Any) -> Tensor:
        loss = F.cross_entropy(net(x), y, reduction="none")
        return scale()[0] * loss[:20].mean() + scale()[1] * loss[20:].mean()

    def outer_loss(net: nn.Module, scale: zoo.Scale, batch: Any) -> Tensor:
        return F.cross_entropy(net(x_val), y_val)

    case = zoo.Case(inner_loss, outer_loss, model, weights, [None], None)
    with torch.no_grad():
        weights.log.copy_(torch.tensor([-8.0, 0.0]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    case.train_live(optimizer, 30)
    with torch.no_grad():
        weights.log.zero_()
    exact = hypergradient(case.problem(), Unrolled(1), None, None, optimizer=optimizer)
    approximate = hypergradient(case.problem(), GaussNewton(), None, None)
    assert float(exact["log"][0]) < 0 < float(exact["log"][1])
    assert float(approximate["log"][0]) < 0
    assert zoo.cosine(approximate, exact) > 0.3


@pytest.mark.parametrize("make", [lambda: Implicit(ConjugateGradient), lambda: GaussNewton(eps=0.0)])
def test_bad_options_are_refused(make: Any) -> None:
    with pytest.raises(OptionError):
        make()


@pytest.mark.parametrize("solver", [ConjugateGradient(), Neumann(0.1), DenseSolve()], ids=repr)
def test_an_outer_gradient_that_is_not_finite_is_no_answer(solver: Any) -> None:
    """√0 is finite, its slope is not: a linear solver alone would answer zero for it."""
    ridge = zoo.Ridge()
    case = ridge.case()
    case.outer_loss = lambda model, scale, batch: (0 * model.weight).sum().sqrt() + scale().sum()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    with pytest.raises(NonFiniteHypergradientError, match="log"):
        case.solver(optimizer, Implicit(solver)).step(case.train[0], case.val)
