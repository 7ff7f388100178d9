"""Optimisers registered with higher become update rules."""

from __future__ import annotations

import warnings
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
from torch import Tensor

import bilevel
from bilevel import Batches, ForwardMode, Unrolled, hypergradient
from bilevel.errors import UnsupportedOptimizerError
from bilevel.optim import HigherRule, from_torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import higher


class NormalizedMomentum(torch.optim.Optimizer):
    """w ← w − lr·m/√(‖m‖² + 1) with m ← βm + g: neither linear nor entry by entry."""

    def __init__(self, params: Any, lr: float, beta: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "beta": beta})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].get("m", torch.zeros_like(p)) * group["beta"] + p.grad
                self.state[p]["m"] = m
                p.sub_(group["lr"] * m / (m.square().sum() + 1).sqrt())


class DifferentiableNormalizedMomentum(higher.optim.DifferentiableOptimizer):
    """The same for higher."""

    def _update(self, grouped_grads: Any, **kwargs: Any) -> None:
        for index, (group, grads) in enumerate(zip(self.param_groups, grouped_grads, strict=True)):
            for at, (p, g) in enumerate(zip(group["params"], grads, strict=True)):
                if g is None:
                    continue
                m = self.state[index][at].get("m", torch.zeros_like(p)) * group["beta"] + g
                self.state[index][at]["m"] = m
                group["params"][at] = p - group["lr"] * m / (m.square().sum() + 1).sqrt()


higher.register_optim(NormalizedMomentum, DifferentiableNormalizedMomentum)


def started(case: zoo.Case) -> NormalizedMomentum:
    """Two groups, and one step already taken."""
    held = list(case.inner.parameters())
    optimizer = NormalizedMomentum([{"params": held[1:], "lr": 0.3}, {"params": held[:1]}], lr=0.1)
    case.inner_loss(case.inner, case.outer, case.train[0]).backward()
    optimizer.step()
    for p in (*held, *case.outer.parameters()):
        p.grad = None
    return optimizer


def test_a_step_is_the_live_optimisers_step() -> None:
    case = zoo.reweighted_mlp()
    optimizer = started(case)
    held = list(case.inner.parameters())
    rule = from_torch(optimizer, held)
    assert isinstance(rule, HigherRule)
    params: tuple[Tensor, ...] = tuple(p.detach().clone() for p in held)
    state = rule.init(params)
    for _ in range(3):
        grads = torch.autograd.grad(case.inner_loss(case.inner, case.outer, case.train[1]), held)
        params, state = rule.update(params, grads, state, {})
        for p, grad in zip(held, grads, strict=True):
            p.grad = grad
        optimizer.step()
        for mine, live in zip(params, held, strict=True):
            torch.testing.assert_close(mine, live.detach(), rtol=1e-13, atol=1e-14)


def test_exact_modes_agree_with_finite_differences() -> None:
    case = zoo.reweighted_mlp()
    optimizer = started(case)
    batches = Batches(case.train[:3])
    found = {
        repr(method): hypergradient(case.problem(), method, batches, case.val, optimizer=optimizer)
        for method in (
            Unrolled(3),
            Unrolled(3, mode="graph"),
            Unrolled(3, trajectory="cpu"),
            Unrolled(3, trajectory="checkpoints"),
            ForwardMode(3, chunk_size=1, walked_back=0),
            ForwardMode(3, chunk_size=None, walked_back=1),
        )
    }
    graph = found[repr(Unrolled(3, mode="graph"))]
    for one in found.values():
        for name, value in one.items():
            torch.testing.assert_close(value, graph[name], rtol=1e-9, atol=1e-13)
    report = bilevel.check(case.problem(), Unrolled(3), batches, case.val, optimizer=optimizer)
    assert report.passed, report


class RootMeanSquare(NormalizedMomentum):
    """RMSprop as higher has it."""


class DifferentiableRootMeanSquare(higher.optim.DifferentiableOptimizer):
    """w ← w − lr·g/(√v + 1e-8): the square root has no slope at an entry that never had a gradient."""

    def _update(self, grouped_grads: Any, **kwargs: Any) -> None:
        for index, (group, grads) in enumerate(zip(self.param_groups, grouped_grads, strict=True)):
            for at, (p, g) in enumerate(zip(group["params"], grads, strict=True)):
                v = self.state[index][at].get("v", torch.zeros_like(p)) * group["beta"] + g.square()
                self.state[index][at]["v"] = v
                group["params"][at] = p - group["lr"] * g / (v.sqrt() + 1e-8)


higher.register_optim(RootMeanSquare, DifferentiableRootMeanSquare)


@pytest.mark.parametrize("walked_back", [0, 1])
def test_tangents_and_adjoints_of_dead_units_are_finite(walked_back: int) -> None:
    case = zoo.dead_relu_mlp()
    optimizer = RootMeanSquare(case.inner.parameters(), lr=0.01)
    found, exact = (
        hypergradient(case.problem(), method, Batches(case.train[:4]), case.val, optimizer=optimizer)
        for method in (ForwardMode(4, walked_back=walked_back), Unrolled(4))
    )
    assert zoo.relative_error(found, exact) < 1e-10


def test_an_optimiser_may_hold_frozen_parameters() -> None:
    """They stay as they are, in whatever group and wherever they stand in it."""
    case = zoo.reweighted_mlp()
    case.inner[0].weight.requires_grad_(False)
    held = list(case.inner.parameters())
    optimizer = NormalizedMomentum([{"params": held[1:]}, {"params": held[:1]}], lr=0.2)
    left_out = NormalizedMomentum(held[1:], lr=0.2)
    for method in (Unrolled(3), ForwardMode(3, walked_back=0)):
        found, expected = (
            hypergradient(case.problem(), method, Batches(case.train[:3]), case.val, optimizer=one)
            for one in (optimizer, left_out)
        )
        assert found.norm() > 0
        assert zoo.relative_error(found, expected) < 1e-14


def test_another_class_stays_refused() -> None:
    case = zoo.reweighted_mlp()
    with pytest.raises(UnsupportedOptimizerError, match=r"higher\.register_optim"):
        from_torch(torch.optim.Adafactor(case.inner.parameters()))
