"""The solver's state: bit-exact resume, snapshots, and states that do not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
import torchopt
from bilevel_states import plain, rebuilt, same
from torch import Tensor, nn

import bilevel
from bilevel import (
    GaussNewton,
    Implicit,
    Neumann,
    Solver,
    Unrolled,
)
from bilevel.errors import (
    StateError,
)

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "adamw": lambda module: torch.optim.AdamW(module.parameters(), lr=0.03),
    "nesterov": lambda module: torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "torchopt": lambda module: torchopt.adam(0.03),
}


PATHS = {
    "unrolled": Unrolled(2),
    "gauss-newton": GaussNewton(),
    "implicit": Implicit(Neumann(0.01, 3, damping=5.0)),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("path", PATHS)
def test_resume_is_bit_exact(optimizer: str, path: str) -> None:
    def build(seed: int) -> tuple[zoo.Case, Solver]:
        case = zoo.conv_net(seed)
        make = OPTIMIZERS[optimizer]
        return case, case.solver(make(case.inner), PATHS[path], outer_optimizer=make(case.outer))

    data, _ = build(0)
    case, solver = build(0)
    torch.manual_seed(11)
    for step in range(3):
        solver.step(data.train[step], data.val)
    tensors: list[Tensor] = []
    text = json.dumps(plain(solver.state_dict(), tensors), allow_nan=False)
    tensors = [tensor.clone() for tensor in tensors]
    infos = [solver.step(data.train[3], data.val) for _ in range(3)]

    other_case, other = build(1)  # other weights, other generator state
    torch.manual_seed(99)
    other.load_state_dict(rebuilt(json.loads(text), tensors))
    again = [other.step(data.train[3], data.val) for _ in range(3)]
    for name, value in case.inner.state_dict().items():
        assert torch.equal(value, other_case.inner.state_dict()[name]), name
    assert torch.equal(case.outer.logits, other_case.outer.logits)
    assert [(i.inner_loss, i.outer_loss, i.hypergradient_norm) for i in infos] == [
        (i.inner_loss, i.outer_loss, i.hypergradient_norm) for i in again
    ]
    assert other.counts == solver.counts == {"inner_steps": 6, "outer_steps": 6, "skipped": 0}


def test_state_dict_is_a_snapshot() -> None:
    case = zoo.reweighted_mlp()
    solver = case.solver(torch.optim.Adam(case.inner.parameters(), lr=0.1), Unrolled(1))
    solver.step(case.train[0], case.val)
    state = solver.state_dict()
    tensors: list[Tensor] = []
    plain(state, tensors)
    before = [tensor.clone() for tensor in tensors]
    solver.step(case.train[0], case.val)
    assert all(torch.equal(tensor, old) for tensor, old in zip(tensors, before, strict=True))


@pytest.mark.parametrize("momentum", [False, True])
def test_a_state_can_be_loaded_again_and_again(momentum: bool) -> None:
    """Training on must not write into the state that was loaded."""

    def build() -> tuple[zoo.Case, Solver]:
        case = zoo.reweighted_mlp()

        def make(module: Any) -> torch.optim.Optimizer:
            if momentum:
                return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
            return torch.optim.Adam(module.parameters(), lr=0.1)

        return case, case.solver(make(case.inner), Unrolled(1), outer_optimizer=make(case.outer))

    case, solver = build()
    solver.step(case.train[0], case.val)
    state = solver.state_dict()
    losses = []
    for _ in range(3):
        case, solver = build()
        solver.load_state_dict(state)
        infos = [solver.step(case.train[0], case.val) for _ in range(3)]
        losses.append([(info.inner_loss, info.outer_loss) for info in infos])
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("momentum", [False, True])
def test_a_restart_finds_the_state_of_a_used_optimiser_every_time(momentum: bool) -> None:
    case = zoo.reweighted_mlp()
    parameters = list(case.inner.parameters())
    optimizer: torch.optim.Optimizer = torch.optim.Adam(parameters, lr=0.1)
    if momentum:
        optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        case.inner_loss(case.inner, case.outer, case.train[0]).backward()
        optimizer.step()
    still = torch.optim.SGD(case.outer.parameters(), lr=0.0)
    solver = case.solver(optimizer, Unrolled(3), outer_optimizer=still, inner_steps=3, inner_start="restart")
    assert len({solver.step(case.train[0], case.val).outer_loss for _ in range(4)}) == 1


class RunningMean(nn.Module):
    """Divides by a running mean that its own state leaves out, as it does a cache of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.mean: Tensor
        self.cache: Tensor
        self.register_buffer("mean", torch.ones(3), persistent=False)
        self.register_buffer("cache", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * x.abs().mean(0))
        answer: Tensor = self.linear(x / self.mean) * self.cache.sum()
        return answer


def test_buffers_that_a_module_does_not_save_are_saved() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3)

    def build() -> Solver:
        torch.manual_seed(1)
        inner, outer = RunningMean(), nn.Linear(3, 1)
        return Solver(
            lambda net, other, batch: (net(batch) - other(batch)).square().mean(),
            lambda net, _, batch: net(batch).square().mean(),
            inner=inner,
            outer=outer,
            inner_optimizer=torch.optim.SGD(inner.parameters(), lr=0.1),
            outer_optimizer=torch.optim.SGD(outer.parameters(), lr=0.1),
            hypergradient=GaussNewton(),
        )

    solver = build()
    solver.problem.inner.cache = torch.ones(2)
    for _ in range(3):
        solver.step(x, x)
    state = solver.state_dict()
    expected = [solver.step(x, x).inner_loss for _ in range(3)]
    other = build()
    other.load_state_dict(state)
    assert [other.step(x, x).inner_loss for _ in range(3)] == expected
    earlier = {key: value for key, value in state.items() if key != "buffers"}
    build().load_state_dict(earlier)  # of versions that did not save them


def test_foreign_states_are_refused() -> None:
    case = zoo.reweighted_mlp()
    solver = case.solver(torch.optim.Adam(case.inner.parameters(), lr=0.1), Unrolled(1))
    state = solver.state_dict()
    with pytest.raises(StateError, match="version"):
        solver.load_state_dict({**state, "version": 99})
    with pytest.raises(StateError, match=r"not a state\n  found: .*NoneType"):
        solver.load_state_dict(None)  # type: ignore[arg-type]
    other = zoo.conv_net()
    with pytest.raises(StateError, match="does not fit"):
        other.solver(torch.optim.Adam(other.inner.parameters(), lr=0.1), Unrolled(1)).load_state_dict(state)
    groups = torch.optim.Adam([{"params": [p]} for p in case.inner.parameters()], lr=0.1)
    with pytest.raises(StateError, match="parameter groups"):
        case.solver(groups, Unrolled(1)).load_state_dict(state)
    sgd = case.solver(torchopt.sgd(0.1), Unrolled(1)).state_dict()
    with pytest.raises(StateError, match="another size"):
        case.solver(torchopt.adam(0.1), Unrolled(1)).load_state_dict(sgd)


MISFITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no rng": lambda state: state.pop("rng"),
    "rng of another kind": lambda state: state["rng"].update(cpu=[1, 2]),
    "no counts": lambda state: state.pop("counts"),
    "a parameter of another shape": lambda state: state["outer"].update(logits=torch.zeros(7)),
    "no parameter groups": lambda state: state["inner_optimizer"].pop("param_groups"),
    "a restart point": lambda state: state.update(restart={"module": {}, "level": {}}),
    "a scheduler": lambda state: state.update(outer_scheduler={}),
    "a broken callback": lambda state: state.update(callbacks={"0": None}),
}


class Counter:
    """A callback with a state."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, solver: Solver, info: Any) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]


@pytest.mark.parametrize("name", MISFITS)
def test_a_state_that_does_not_fit_changes_nothing(name: str) -> None:
    def build(steps: int) -> tuple[zoo.Case, Solver]:
        case = zoo.conv_net(seed=steps)
        optimizer = torch.optim.Adam(case.inner.parameters(), lr=0.1 / (1 + steps))
        solver = case.solver(optimizer, Unrolled(1), callbacks=[Counter()])
        for _ in range(steps):
            solver.step(case.train[0], case.val)
        return case, solver

    state = build(2)[1].state_dict()
    MISFITS[name](state)
    for steps in (0, 1):  # with and without an optimiser state
        _, solver = build(steps)
        torch.manual_seed(3)
        before: list[Tensor] = []
        text = json.dumps(plain(solver.state_dict(), before))
        with pytest.raises(StateError, match="does not fit"):
            solver.load_state_dict(state)
        after: list[Tensor] = []
        assert json.dumps(plain(solver.state_dict(), after)) == text
        assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_state_without_generators_fits_where_they_are_not_restored() -> None:
    case = zoo.reweighted_mlp()
    solver = case.solver(torch.optim.Adam(case.inner.parameters(), lr=0.1), Unrolled(1))
    state = solver.state_dict()
    del state["rng"]
    solver.step(case.train[0], case.val)
    solver.load_state_dict(state, restore_rng=False)
    assert solver.counts["inner_steps"] == 0


def test_a_restart_point_is_not_dropped_silently() -> None:
    case = zoo.reweighted_mlp()
    sgd = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    warm, restarting = (case.solver(sgd, Unrolled(1), inner_start=start) for start in ("warm", "restart"))
    with pytest.raises(StateError, match="with restart"):
        warm.load_state_dict(restarting.state_dict())
    with pytest.raises(StateError, match="without restart"):
        restarting.load_state_dict(warm.state_dict())
    state = restarting.state_dict()
    point = state["restart"]["module"]
    name = next(iter(point))
    point[name] = point[name][:1]
    with pytest.raises(StateError, match=rf"of another module(.|\n)*{re.escape(name)}"):
        restarting.load_state_dict(state)


def test_resume_of_a_rule_whose_state_starts_empty() -> None:
    def build() -> tuple[zoo.Case, Solver]:
        case = zoo.reweighted_mlp()
        rule = bilevel.from_torch(torch.optim.NAdam(case.inner.parameters(), lr=0.02))
        return case, case.solver(rule, Unrolled(2))

    case, solver = build()
    solver.step(case.train[0], case.val)
    state = solver.state_dict()
    solver.step(case.train[1], case.val)
    other_case, other = build()
    other.load_state_dict(state)
    other.step(case.train[1], case.val)
    same(case.inner, other_case.inner)


@pytest.mark.parametrize("make", [torch.optim.Adam, lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)])
def test_resume_and_restart_of_a_rule_where_a_parameter_is_never_used(make: Any) -> None:
    """It keeps nothing for that parameter, so its state has fewer values than one used throughout."""

    def build(start: str) -> tuple[zoo.Case, Solver]:
        case = zoo.reweighted_mlp()
        case.inner = torch.nn.ModuleDict({"unused": zoo.mlp(2, 2), "used": case.inner})
        used = case.inner_loss, case.outer_loss
        case.inner_loss = lambda net, weights, batch: used[0](net["used"], weights, batch)
        case.outer_loss = lambda net, weights, batch: used[1](net["used"], weights, batch)
        rule = bilevel.from_torch(make(case.inner.parameters(), lr=0.02))
        return case, case.solver(rule, Unrolled(2), inner_start=start)

    for start in ("warm", "restart"):
        case, solver = build(start)
        solver.step(case.train[0], case.val)
        tensors: list[Tensor] = []
        text = json.dumps(plain(solver.state_dict(), tensors))
        solver.step(case.train[1], case.val)
        other_case, other = build(start)
        other.load_state_dict(rebuilt(json.loads(text), tensors))
        other.step(case.train[1], case.val)
        same(case.inner, other_case.inner)
        same(case.outer, other_case.outer)
