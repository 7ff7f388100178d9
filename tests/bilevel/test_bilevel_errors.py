"""Losses that cannot be differentiated: each a named error that says which loss and what to do."""

from __future__ import annotations

from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bilevel import (
    SAMA,
    BilevelError,
    FiniteDifference,
    ForwardMode,
    GaussNewton,
    Identity,
    Implicit,
    Neumann,
    Penalty,
    Unrolled,
    hypergradient,
)
from bilevel.errors import (
    DoubleBackwardError,
    IndependentLossError,
    InPlaceError,
    NotScalarLossError,
    OptimizerError,
)

SECOND_ORDER = [Unrolled(2), Unrolled(2, mode="graph"), Implicit(Neumann(0.01, 2, damping=1.0))]
METHODS = [
    *SECOND_ORDER,
    Unrolled(2, products="forward-over-reverse"),
    ForwardMode(2, walked_back=0),
    GaussNewton(),
    FiniteDifference(0.1),
    Identity(0.1),
    SAMA(),
    Penalty(0.1, 2, 0.1),
]


def ask(case: zoo.Case, method: Any) -> Any:
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    return hypergradient(case.problem(), method, case.train[0], case.val, optimizer=optimizer)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("level", ["inner_loss", "outer_loss"])
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda loss: loss.expand(3), r"shape \(3,\)"),
        (lambda loss: loss.reshape(1), r"shape \(1,\)"),
        (lambda loss: loss.item(), "float"),
        (lambda loss: (loss * 100).long(), r"torch\.int64"),
        (lambda loss: None, "NoneType"),
    ],
)
def test_loss_that_is_not_a_scalar(method: Any, level: str, change: Any, found: str) -> None:
    case = zoo.reweighted_mlp()
    loss = getattr(case, level)

    def changed(*args: Any) -> Any:
        return change(loss(*args))

    setattr(case, level, changed)
    with pytest.raises(NotScalarLossError, match=rf"{level} \(.*changed\)(.|\n)*{found}(.|\n)*mean\(\)"):
        ask(case, method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("constant", [True, False])
def test_loss_that_does_not_depend_on_the_inner_parameters(method: Any, constant: bool) -> None:
    def no_inner(model: nn.Module, weights: nn.Module, batch: Any) -> Tensor:
        return torch.ones(()).double() if constant else weights(torch.arange(3)).square().mean()

    case = zoo.reweighted_mlp()
    original, case.inner_loss = case.inner_loss, no_inner
    with pytest.raises(IndependentLossError, match=r"inner_loss \(.*no_inner\).*inner parameters"):
        ask(case, method)
    case.inner_loss, case.outer_loss = original, no_inner
    with pytest.raises(IndependentLossError, match=r"outer_loss \(.*no_inner\).*inner parameters"):
        ask(case, method)


def test_live_step_names_an_independent_loss_too() -> None:
    case = zoo.reweighted_mlp()
    case.inner_loss = lambda model, weights, batch: weights(batch[2]).mean()
    solver = case.solver(torch.optim.SGD(case.inner.parameters(), lr=0.1), GaussNewton())
    with pytest.raises(IndependentLossError, match="inner_loss"):
        solver.inner_step(case.train[0])


@pytest.mark.parametrize("method", METHODS)
def test_losses_that_do_not_depend_on_the_outer_parameters(method: Any) -> None:
    case = zoo.reweighted_mlp()
    case.inner_loss = lambda model, weights, batch: zoo.plain_loss(model, weights, batch[:2])
    with pytest.raises(IndependentLossError, match="neither loss depends on the outer parameters"):
        ask(case, method)


class Once(torch.autograd.Function):
    """First derivative only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


class Wrap(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function(x)
        return result


@pytest.mark.parametrize("function", [F.hardsigmoid, Once.apply])
@pytest.mark.parametrize("method", SECOND_ORDER)
def test_operator_without_second_derivative(method: Any, function: Any) -> None:
    case = zoo.reweighted_mlp()
    case.inner.insert(1, Wrap(function))
    with pytest.raises(DoubleBackwardError, match=r"inner_loss \(weighted_loss\)(.|\n)*GaussNewton"):
        ask(case, method)
    assert torch.isfinite(ask(case, GaussNewton())["logits"]).all()


def test_attention_without_second_derivative() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(4, 12)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.project(x)[None, None].chunk(3, -1)
            return F.scaled_dot_product_attention(q, k, v)[0, 0]

    case = zoo.reweighted_mlp()
    case.inner.insert(0, Attention().double())
    with pytest.raises(DoubleBackwardError, match=r"SDPBackend\.MATH"):
        ask(case, Unrolled(1))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert torch.isfinite(ask(case, Unrolled(1))["logits"]).all()


@pytest.mark.parametrize("method", METHODS)
def test_in_place_operation(method: Any) -> None:
    def spoil(x: Tensor) -> Tensor:
        y = torch.sigmoid(x)
        y += 1
        return y

    case = zoo.reweighted_mlp()
    case.inner.insert(1, Wrap(spoil))
    with pytest.raises(InPlaceError, match=r"inplace=False"):
        ask(case, method)


def test_other_errors_of_the_users_loss_pass_unchanged() -> None:
    case = zoo.reweighted_mlp()
    case.train[0] = (case.train[0][0][:, :2], *case.train[0][1:])
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        ask(case, Unrolled(1))


def test_errors_keep_their_parts() -> None:
    error = BilevelError("it is wrong", where="here", found=1, expected=2, fix="change it")
    assert (error.problem, error.where, error.found, error.expected, error.fix) == (
        "it is wrong",
        "here",
        1,
        2,
        "change it",
    )
    assert str(error).splitlines() == [
        "here: it is wrong",
        "  found:    1",
        "  expected: 2",
        "  mend:     change it",
    ]


@pytest.mark.parametrize("method", [Unrolled(2), ForwardMode(2), SAMA()])
def test_a_method_that_unrolls_asks_for_the_optimiser(method: Any) -> None:
    case = zoo.reweighted_mlp()
    with pytest.raises(OptimizerError, match=rf"^{type(method).__name__}: (.|\n)*pass optimizer="):
        hypergradient(case.problem(), method, case.train[0], case.val)
