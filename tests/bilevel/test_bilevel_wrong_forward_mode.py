"""Operators whose backward pass has wrong tangents in torch: named, and `auto` falls back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bilevel
from bilevel.errors import NoForwardModeError

EYE = torch.eye(4, dtype=torch.float64)
HEADS = torch.tensor([0, 0, 1, 1])


def _scattered(matrix: Tensor, reduce: str) -> Tensor:
    start = torch.ones(2, 4, dtype=torch.float64)
    index = HEADS[:, None].expand(4, 4)
    return start.scatter_reduce(0, index, 1 + 0.1 * matrix, reduce)


def _spd(matrix: Tensor) -> Tensor:
    return matrix @ matrix.T + 3 * EYE


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "solve": lambda m: torch.linalg.solve(EYE + 0.1 * m, EYE - 0.1 * m),
    "slogdet": lambda m: torch.linalg.slogdet(_spd(m))[1],
    "logdet": lambda m: torch.logdet(_spd(m)),
    "det": lambda m: torch.linalg.det(_spd(m)),
    "cholesky_inverse": lambda m: torch.cholesky_inverse(torch.linalg.cholesky(_spd(m))),
    "scatter product": lambda m: _scattered(m, "prod"),
}
RIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "inverse": lambda m: torch.linalg.inv(_spd(m)),
    "scatter sum": lambda m: _scattered(m, "sum"),
}


class Matrix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.weight = nn.Parameter(torch.randn(4, 4, dtype=torch.float64))


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.zeros(4, dtype=torch.float64))


def found(operator: Callable[[Tensor], Tensor], products: Any) -> tuple[Tensor, Any]:
    def loss(inner: Any, outer: Any, _: Any) -> Tensor:
        return (operator(inner.weight * outer.log.exp()).tanh() * 0.3).square().sum()

    model = Matrix()
    problem = bilevel.Problem(loss, lambda inner, *_: inner.weight.square().sum(), model, Scale())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = bilevel.Unrolled(2, products=products)
    answer = bilevel.hypergradient(problem, method, None, None, optimizer=optimizer)
    return answer["log"], answer


@pytest.mark.parametrize("name", WRONG)
def test_they_are_named_and_auto_falls_back(name: str) -> None:
    with pytest.raises(NoForwardModeError, match="is wrong"):
        found(WRONG[name], "forward-over-reverse")
    right, _ = found(WRONG[name], "double-backward")
    auto, answer = found(WRONG[name], "auto")
    assert torch.equal(auto, right)
    assert "double backward" in " ".join(answer.notes)


@pytest.mark.parametrize("name", RIGHT)
def test_their_neighbours_are_not_refused(name: str) -> None:
    right, _ = found(RIGHT[name], "double-backward")
    forward, _ = found(RIGHT[name], "forward-over-reverse")
    torch.testing.assert_close(forward, right, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_scripted_modules_are_refused() -> None:
    torch.manual_seed(0)
    net = torch.jit.script(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double())
    x = torch.randn(8, 4, dtype=torch.float64)

    def loss(inner: Any, outer: Any, _: Any) -> Tensor:
        return (inner(x * outer.log.exp()) - 1).square().mean()

    problem = bilevel.Problem(loss, lambda inner, *_: inner(x).square().mean(), net, Scale())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(NoForwardModeError, match=r"torch\.jit"):
        bilevel.hypergradient(
            problem, bilevel.Unrolled(2, products="forward-over-reverse"), None, None, optimizer=optimizer
        )
