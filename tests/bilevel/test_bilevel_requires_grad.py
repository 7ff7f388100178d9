"""Losses that ask which parameters require a gradient: all methods must show them the same ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bilevel

METHODS = [
    bilevel.Unrolled(3),
    bilevel.Unrolled(3, mode="graph"),
    bilevel.Unrolled(3, trajectory="checkpoints"),
    bilevel.Unrolled(3, products="forward-over-reverse"),
    bilevel.ForwardMode(3),
    bilevel.ForwardMode(3, walked_back=0),
]


class Decay(nn.Module):
    """The logarithm of a weight decay."""

    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(-2.0, dtype=torch.float64))


def inner_filter(model: nn.Module, decay: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    squares = sum(p.square().sum() for p in model.parameters() if p.requires_grad)
    return F.cross_entropy(model(batch[0]), batch[1]) + decay.log.exp() * squares


def outer_filter(model: nn.Module, decay: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    squares = sum(p.square().sum() for p in model.parameters())
    factor = sum(p.exp() for p in decay.parameters() if p.requires_grad)
    return F.cross_entropy(model(batch[0]), batch[1]) + factor * squares


def outer_loss(model: nn.Module, _: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def make(
    inner_loss: Any, model: nn.Module | None = None
) -> tuple[bilevel.Problem, torch.optim.Optimizer, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    batch = torch.randn(30, 4, dtype=torch.float64), torch.randint(2, (30,))
    model = model or nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    problem = bilevel.Problem(inner_loss, outer_loss, model, Decay())
    return problem, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), batch


def trained(inner_loss: Any, steps: int, shift: float) -> float:
    """The outer loss after plain training with a shifted outer parameter."""
    problem, optimizer, batch = make(inner_loss)
    with torch.no_grad():
        problem.outer.log += shift
    for _ in range(steps):
        optimizer.zero_grad()
        inner_loss(problem.inner, problem.outer, batch).backward()
        optimizer.step()
    with torch.no_grad():
        return float(outer_loss(problem.inner, problem.outer, batch))


@pytest.mark.parametrize("inner_loss", [inner_filter, outer_filter])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_unrolls_agree_with_training(inner_loss: Any, method: Any) -> None:
    problem, optimizer, batch = make(inner_loss)
    found = bilevel.hypergradient(problem, method, batch, batch, optimizer=optimizer)["log"].item()
    expected = (trained(inner_loss, 3, 1e-5) - trained(inner_loss, 3, -1e-5)) / 2e-5
    assert found == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("inner_loss", [inner_filter, outer_filter])
def test_check_agrees_on_one_step(inner_loss: Any) -> None:
    """The first step back is the one that needs no product with the Hessian."""
    problem, optimizer, batch = make(inner_loss)
    method = bilevel.Unrolled(1, products="forward-over-reverse")
    report = bilevel.check(problem, method, batch, batch, optimizer=optimizer)
    assert report.passed, report


@pytest.mark.parametrize("inner_loss", [inner_filter, outer_filter])
def test_check_agrees_at_a_minimum(inner_loss: Any) -> None:
    problem, optimizer, batch = make(inner_loss, nn.Linear(4, 2).double())
    for _ in range(300):
        optimizer.zero_grad()
        inner_loss(problem.inner, problem.outer, batch).backward()
        optimizer.step()
    report = bilevel.check(problem, bilevel.Implicit(bilevel.DenseSolve()), batch, batch)
    assert report.passed, report
