"""What a step does with its batches: micro-batches, autocast, devices, `fit`."""

from __future__ import annotations

import collections
from dataclasses import dataclass
from typing import Any, NamedTuple

import bilevel_zoo as zoo
import pytest
import torch
from bilevel_states import same, sgd
from torch import Tensor, nn

import bilevel
from bilevel import (
    SAMA,
    Batches,
    ConjugateGradient,
    FiniteDifference,
    GaussNewton,
    Implicit,
    Penalty,
    Unrolled,
)
from bilevel._nested import to_device
from bilevel.errors import (
    BatchError,
    OptionError,
)

METHODS = {
    "adjoint": Unrolled(3),
    "graph": Unrolled(3, mode="graph"),
    "implicit": Implicit(ConjugateGradient(5, damping=5.0)),
    "gauss-newton": GaussNewton(),
}


@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_equal_the_joined_batch(name: str) -> None:
    """The batches hold 12 samples: pieces of 5, 5 and 2, weighted by their size."""
    cases = [zoo.direct() for _ in range(2)]
    whole = cases[0].solver(sgd(cases[0].inner), METHODS[name], inner_steps=3)
    cut = cases[1].solver(
        sgd(cases[1].inner), METHODS[name], inner_steps=3, inner_micro_batch=5, outer_micro_batch=7
    )
    for _ in range(2):
        infos = [
            solver.step(Batches(case.train[:3]), case.val)
            for solver, case in zip((whole, cut), cases, strict=True)
        ]
    assert infos[0].inner_loss == pytest.approx(infos[1].inner_loss, rel=1e-12)
    assert infos[0].outer_loss == pytest.approx(infos[1].outer_loss, rel=1e-12)
    same(cases[0].inner, cases[1].inner, 1e-12)
    same(cases[0].outer, cases[1].outer, 1e-12)


@pytest.mark.parametrize(
    "method",
    [None, Unrolled(2), GaussNewton(), SAMA(), FiniteDifference(0.1), Penalty(10.0, 2, 0.05)],
    ids=repr,
)
def test_micro_batches_hold_one_graph_at_a_time(method: Any) -> None:
    """When a micro-batch is evaluated, what the ones before it saved for their backward pass is gone."""
    case = zoo.reweighted_mlp()
    alive: list[int] = []
    saved: list[Any] = []

    class Saved:
        """What stands for a saved tensor; it is freed with the graph."""

        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor.detach()  # a saved output would keep its own graph alive
            saved.append(1)

        def __del__(self) -> None:
            saved.pop()

    def watched(model: nn.Module, weights: nn.Module, batch: Any) -> Tensor:
        alive.append(len(saved))
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda one: one.tensor):
            return zoo.weighted_loss(model, weights, batch)

    case.inner_loss = watched
    solver = case.solver(sgd(case.inner), method or GaussNewton(), inner_micro_batch=3)
    if method is None:
        solver.inner_step(case.train[0])
    else:
        solver.hypergradient(case.train[0], case.val)
    assert len(alive) >= 3
    assert not any(alive)


def test_batches_that_cannot_be_cut_are_named() -> None:
    case = zoo.reweighted_mlp()
    solver = case.solver(sgd(case.inner), GaussNewton(), inner_micro_batch=4)
    x, y, cluster = case.train[0]
    with pytest.raises(BatchError, match=r"train(.|\n)*\[5, 9\]"):
        solver.inner_step((x, y[:5], cluster))
    with pytest.raises(BatchError, match="no tensor"):
        solver.inner_step("samples")
    with pytest.raises(BatchError, match="weights"):
        Batches([1, 2], weights=[1.0])
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    with pytest.raises(BatchError, match="PackedSequence"):
        solver.inner_step((packed, y[:2]))
    with pytest.raises(OptionError, match="outer_micro_batch"):
        case.solver(sgd(case.inner), GaussNewton(), outer_micro_batch=0)


def test_autocast_is_that_of_the_caller() -> None:
    results = []
    for inside in (True, False):
        case = zoo.reweighted_mlp()
        case.inner.float()
        case.train = [(x.float(), y, c) for x, y, c in case.train]
        case.val = (case.val[0].float(), case.val[1])
        solver = case.solver(sgd(case.inner), Unrolled(2), autocast=torch.bfloat16 if inside else None)
        if inside:
            solver.step(case.train[0], case.val)
        else:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                solver.step(case.train[0], case.val)
        results.append(case.inner)
    same(*results)
    case = zoo.reweighted_mlp()
    case.inner.float()
    full = case.solver(sgd(case.inner), Unrolled(2))
    full.step((case.train[0][0].float(), *case.train[0][1:]), (case.val[0].float(), case.val[1]))
    assert not torch.equal(case.inner[0].weight, results[0][0].weight)


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass(frozen=True)
class Record:
    x: Tensor
    name: str


class Movable:
    def __init__(self) -> None:
        self.place = "cpu"

    def to(self, device: torch.device) -> Movable:
        moved = Movable()
        moved.place = device.type
        return moved


def test_nested_batches_are_moved() -> None:
    seen: list[Any] = []
    case = zoo.reweighted_mlp()

    def loss(model: nn.Module, weights: nn.Module, batch: Any) -> Tensor:
        seen.append(batch)
        return weights(torch.arange(3)).sum() * model(torch.ones(1, 4).double()).square().sum()

    case.inner_loss = loss
    x = torch.ones(2)
    batch = collections.OrderedDict(
        a=Pair(x, [Record(x, "r"), None, "text", 3]), b=(Movable(), {"c": x}), d=Batches
    )
    # The loss does not look at the batch, so it may lie on a device without data.
    case.solver(sgd(case.inner), GaussNewton(), device="meta").inner_step(batch)
    (moved,) = seen
    assert type(moved) is collections.OrderedDict
    assert type(moved["a"]) is Pair
    assert moved["a"].left.device.type == "meta"
    record = moved["a"].right[0]
    assert (type(record), record.x.device.type, record.name) == (Record, "meta", "r")
    assert moved["a"].right[1:] == [None, "text", 3]
    assert moved["b"][0].place == "meta"
    assert moved["b"][1]["c"].device.type == "meta"
    assert moved["d"] is Batches
    assert x.device.type == "cpu"
    assert batch["b"][0].place == "cpu"


def test_a_packed_sequence_is_moved_as_it_moves_itself() -> None:
    """Its batch sizes must stay on the CPU."""
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    moved = to_device({"x": packed}, torch.device("meta"))["x"]
    assert (moved.data.device.type, moved.batch_sizes.device.type) == ("meta", "cpu")


def test_a_copy_to_the_cpu_is_waited_for() -> None:
    """Else torch copies from CUDA into pinned memory and goes on: a loss would read what is not there."""
    asked: list[bool] = []

    class Watched(Tensor):
        def to(self, *args: Any, **kwargs: Any) -> Any:
            asked.append(kwargs.get("non_blocking", False))
            return super().to(*args, **kwargs)

    to_device((torch.ones(2).as_subclass(Watched),), torch.device("cpu"))
    assert asked == [False]


def test_fit_begins_iterables_again_and_calls_back() -> None:
    case = zoo.reweighted_mlp()
    seen: list[bilevel.StepInfo] = []
    solver = case.solver(
        sgd(case.inner), Unrolled(2), inner_steps=2, callbacks=[lambda solver, info: seen.append(info)]
    )
    twin_case = zoo.reweighted_mlp()
    twin = twin_case.solver(sgd(twin_case.inner), Unrolled(2), inner_steps=2)
    last = bilevel.fit(solver, case.train[:3], [case.val], steps=3, batches_per_step=2)
    for pair in ((0, 1), (2, 0), (1, 2)):
        twin.step(Batches([twin_case.train[i] for i in pair]), twin_case.val)
    same(case.inner, twin_case.inner)
    same(case.outer, twin_case.outer)
    assert len(seen) == 3
    assert seen[-1] is last
    with pytest.raises(BatchError, match="begun again"):
        bilevel.fit(solver, iter(case.train[:1]), [case.val], steps=2)
    with pytest.raises(OptionError, match="steps"):
        bilevel.fit(solver, case.train, [case.val], steps=0)
    with pytest.raises(OptionError, match="batches_per_step"):
        bilevel.fit(solver, case.train, [case.val], steps=1, batches_per_step="2")  # type: ignore[arg-type]
