"""Solver options: micro-batches, clipping, schedulers, autocast, devices, order of a step, resume."""

from __future__ import annotations

import collections
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import bilevel_zoo as zoo
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

import bilevel
from bilevel import (
    SAMA,
    Batches,
    ClipNorm,
    ClipValue,
    ConjugateGradient,
    GaussNewton,
    Implicit,
    Solver,
    Unrolled,
)
from bilevel.errors import BatchError, OptionError, StateError
from bilevel.optim import LearnedSettings


def sgd(module: nn.Module, lr: float = 0.1, momentum: float = 0.9) -> torch.optim.SGD:
    return torch.optim.SGD(module.parameters(), lr=lr, momentum=momentum)


class Still(bilevel.UpdateRule):
    """An outer optimiser that moves nothing."""

    def init(self, params: Any) -> Any:
        return ()

    def update(self, params: Any, grads: Any, state: Any, outer: Any) -> Any:
        return params, state


def same(left: nn.Module, right: nn.Module, tolerance: float = 0.0) -> None:
    for name, value in left.state_dict().items():
        torch.testing.assert_close(value, right.state_dict()[name], rtol=tolerance, atol=tolerance, msg=name)


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


def test_micro_batches_hold_one_graph_at_a_time() -> None:
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
    case.solver(sgd(case.inner), GaussNewton(), inner_micro_batch=3).inner_step(case.train[0])
    assert alive == [0, 0, 0]


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
    with pytest.raises(OptionError, match="outer_micro_batch"):
        case.solver(sgd(case.inner), GaussNewton(), outer_micro_batch=0)


@pytest.mark.parametrize("clip", [ClipNorm(0.05), ClipValue(0.02)], ids=["norm", "value"])
def test_clipping_is_that_of_torch_and_part_of_the_unroll(clip: Any) -> None:
    case = zoo.dead_relu_mlp()
    optimizer = sgd(case.inner)
    before = copy.deepcopy((case.inner, case.outer, optimizer))
    solver = case.solver(optimizer, Unrolled(3), inner_clip=clip)
    found = solver.hypergradient(Batches(case.train[:3]), case.val)
    graph = case.solver(optimizer, Unrolled(3, mode="graph"), inner_clip=clip)
    assert zoo.relative_error(found, graph.hypergradient(Batches(case.train[:3]), case.val)) < 1e-9

    def outer_loss(shift: Tensor) -> float:
        inner, outer, twin = copy.deepcopy(before)
        with torch.no_grad():
            outer.logits += shift
        for step in range(3):
            twin.zero_grad()
            case.inner_loss(inner, outer, case.train[step]).backward(inputs=list(inner.parameters()))
            if isinstance(clip, ClipNorm):
                norm = torch.nn.utils.clip_grad_norm_(inner.parameters(), clip.max_norm)
                assert norm > clip.max_norm
            else:
                torch.nn.utils.clip_grad_value_(inner.parameters(), clip.value)
            twin.step()
        return float(case.outer_loss(inner, outer, case.val).detach())

    slope = torch.stack(
        [
            torch.tensor((outer_loss(e) - outer_loss(-e)) / 2e-5, dtype=torch.float64)
            for e in torch.eye(3, dtype=torch.float64) * 1e-5
        ]
    )
    assert zoo.relative_error(found, {"logits": slope}) < 1e-6
    for step in range(3):
        info = solver.inner_step(case.train[step])
    assert info.inner_gradient_norm is not None
    assert float(case.outer_loss(case.inner, case.outer, case.val).detach()) == pytest.approx(
        float(found.outer_loss), rel=1e-12
    )


def test_outer_clipping() -> None:
    case = zoo.reweighted_mlp()
    before = case.outer.logits.detach().clone()
    solver = case.solver(
        sgd(case.inner),
        Unrolled(2),
        outer_optimizer=sgd(case.outer, 1.0, 0.0),
        outer_clip=ClipNorm(1e-3),
    )
    info = solver.outer_step(case.train[0], case.val)
    assert info.hypergradient_norm is not None
    assert info.hypergradient_norm > 2e-3  # reported before clipping
    moved = (case.outer.logits.detach() - before).norm().item()
    assert moved == pytest.approx(1e-3, rel=1e-2)
    for bad in (lambda: ClipNorm(0.0), lambda: ClipValue(-1.0)):
        with pytest.raises(OptionError):
            bad()
    with pytest.raises(OptionError, match="inner_clip"):
        case.solver(sgd(case.inner), Unrolled(2), inner_clip=1.0)


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [2, 5], 0.1),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 6)], [3]
    ),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=10.0),
    "onecycle": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=20),
}


def test_schedulers_are_stepped_after_their_updates() -> None:
    case = zoo.reweighted_mlp()
    inner, outer = sgd(case.inner, 0.1), sgd(case.outer, 0.2)
    solver = case.solver(
        inner,
        Unrolled(2),
        outer_optimizer=outer,
        inner_steps=3,
        inner_scheduler=SCHEDULERS["exponential"](inner),
        outer_scheduler=SCHEDULERS["exponential"](outer),
    )
    solver.step(case.train[0], case.val)
    assert solver.learning_rates() == {"inner/lr": pytest.approx(0.1 / 8), "outer/lr": pytest.approx(0.1)}
    with pytest.raises(OptionError, match="another optimiser"):
        case.solver(inner, Unrolled(2), inner_scheduler=SCHEDULERS["exponential"](outer))
    with pytest.raises(OptionError, match="not a learning-rate scheduler"):
        case.solver(inner, Unrolled(2), inner_scheduler="cosine")
    learned = LearnedSettings(inner, lr=lambda outer: outer["logits"][0].exp())
    with pytest.raises(OptionError, match="learned and scheduled"):
        case.solver(learned, Unrolled(2), inner_scheduler=SCHEDULERS["exponential"](inner))


def plain(value: Any, tensors: list[Tensor]) -> Any:
    """What JSON makes of a state whose tensors are kept apart; fails on anything else."""
    if isinstance(value, Tensor):
        tensors.append(value.clone())
        return {"tensor": len(tensors) - 1}
    if isinstance(value, dict):
        assert all(type(key) is str for key in value)
        return {key: plain(one, tensors) for key, one in value.items()}
    return [plain(one, tensors) for one in value] if isinstance(value, list) else value


def rebuilt(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"tensor"}:
            return tensors[value["tensor"]]
        return {key: rebuilt(one, tensors) for key, one in value.items()}
    return [rebuilt(one, tensors) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("start", ["warm", "restart"])
def test_resume_is_bit_exact_with_everything_on(scheduler: str, start: Any) -> None:
    def build(seed: int) -> tuple[zoo.Case, Solver]:
        case = zoo.conv_net(seed)
        inner, outer = sgd(case.inner), sgd(case.outer, 0.3)
        solver = case.solver(
            inner,
            Unrolled(2),
            outer_optimizer=outer,
            inner_steps=2,
            unroll="committed",
            inner_start=start,
            inner_clip=ClipNorm(0.5),
            outer_clip=ClipValue(0.01),
            inner_scheduler=SCHEDULERS[scheduler](inner),
            outer_scheduler=SCHEDULERS[scheduler](outer),
            inner_micro_batch=4,
            outer_micro_batch=4,
            autocast=torch.bfloat16,
        )
        return case, solver

    data, _ = build(0)
    case, solver = build(0)
    torch.manual_seed(11)
    for step in range(3):
        solver.step(data.train[step], data.val)
    tensors: list[Tensor] = []
    text = json.dumps(plain(solver.state_dict(), tensors), allow_nan=False)
    infos = [solver.step(data.train[3], data.val) for _ in range(3)]
    rates = solver.learning_rates()

    other_case, other = build(1)
    torch.manual_seed(99)
    other.load_state_dict(rebuilt(json.loads(text), tensors))
    again = [other.step(data.train[3], data.val) for _ in range(3)]
    same(case.inner, other_case.inner)
    same(case.outer, other_case.outer)
    assert other.learning_rates() == rates
    assert [(i.inner_loss, i.outer_loss) for i in infos] == [(i.inner_loss, i.outer_loss) for i in again]
    bare = other_case.solver(sgd(other_case.inner), Unrolled(2))
    with pytest.raises(StateError, match="does not fit"):
        solver.load_state_dict(bare.state_dict())


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


def test_committed_unroll_is_the_unroll_itself() -> None:
    case = zoo.conv_net()
    solver = case.solver(sgd(case.inner), Unrolled(3), inner_steps=3, unroll="committed")
    twin, twin_outer, twin_optimizer = copy.deepcopy((case.inner, case.outer, solver.inner_optimizer))
    torch.manual_seed(5)
    info = solver.step(Batches(case.train[:3]), case.val)
    # The live loss before the last inner step is that of the last unrolled step, dropout masks included.
    assert info.inner_loss == pytest.approx(info.unroll_losses[-1], rel=1e-12)
    torch.manual_seed(5)
    for step in range(3):  # with the old outer parameters
        twin_optimizer.zero_grad()
        case.inner_loss(twin, twin_outer, case.train[step]).backward(inputs=list(twin.parameters()))
        twin_optimizer.step()
    same(case.inner, twin, 1e-14)
    assert not torch.equal(case.outer.logits, twin_outer.logits)
    with pytest.raises(OptionError, match="inner_steps=3"):
        case.solver(sgd(case.inner), Unrolled(3), inner_steps=2, unroll="committed")


def test_a_committed_unroll_keeps_its_learning_rate_and_the_scheduler_follows() -> None:
    case = zoo.reweighted_mlp()
    optimizer = sgd(case.inner)
    solver = case.solver(
        optimizer,
        Unrolled(3),
        inner_steps=3,
        unroll="committed",
        inner_scheduler=SCHEDULERS["exponential"](optimizer),
    )
    for rate in (0.1, 0.1 / 8):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)
        expected = solver.hypergradient(Batches(case.train[:3]), case.val).outer_loss
        twin = copy.deepcopy(case.outer)
        solver.step(Batches(case.train[:3]), case.val)
        reached = case.outer_loss(case.inner, twin, case.val)
        torch.testing.assert_close(reached.detach(), expected, rtol=1e-13, atol=0)
    solver.inner_step(case.train[0])  # not held any more
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 2**7)


@pytest.mark.parametrize("start", ["warm", "restart"])
@pytest.mark.parametrize("method", [GaussNewton(), SAMA("exact")], ids=["gauss-newton", "sama"])
def test_committed_point_method_looks_where_the_inner_steps_ended(method: Any, start: Any) -> None:
    case = zoo.reweighted_mlp()
    solver = case.solver(
        sgd(case.inner), method, inner_steps=2, unroll="committed", inner_start=start, outer_optimizer=Still()
    )
    twin, _, _ = copy.deepcopy((case.inner, case.outer, None))
    info = solver.step(case.train[0], case.val)
    expected = case.outer_loss(case.inner, case.outer, case.val).item()
    assert info.outer_loss == pytest.approx(expected, rel=1e-12)
    there = solver.hypergradient(case.train[0], case.val)
    assert info.hypergradient_norm == pytest.approx(float(there.norm()), rel=1e-12)
    assert info.outer_loss != pytest.approx(case.outer_loss(twin, case.outer, case.val).item(), rel=1e-6)


def test_restarted_inner_problem_begins_where_it_began() -> None:
    case = zoo.reweighted_mlp()
    still = sgd(case.outer, 0.0)
    solver = case.solver(
        sgd(case.inner), Unrolled(2), outer_optimizer=still, inner_steps=2, inner_start="restart"
    )
    first, second = (solver.step(Batches(case.train[:2]), case.val) for _ in range(2))
    assert first.unroll_losses == second.unroll_losses
    assert first.inner_loss == second.inner_loss
    warm = zoo.reweighted_mlp()
    solver = warm.solver(sgd(warm.inner), Unrolled(2), outer_optimizer=sgd(warm.outer, 0.0), inner_steps=2)
    first, second = (solver.step(Batches(warm.train[:2]), warm.val) for _ in range(2))
    assert first.unroll_losses != second.unroll_losses
    for method in (GaussNewton(), SAMA()):
        with pytest.raises(OptionError, match="committed"):
            case.solver(sgd(case.inner), method, inner_start="restart")


def test_restart_leaves_alone_what_the_outer_module_holds_too() -> None:
    """A parameter of both modules is outer: what was learned of it is not undone."""
    case = zoo.conv_net(dropout=0.0)
    case.outer.add_module("stem", case.inner[:2])  # convolution and BatchNorm
    own = [p for p in case.inner.parameters() if all(p is not other for other in case.outer.parameters())]
    solver = case.solver(
        torch.optim.SGD(own, lr=0.1),
        Unrolled(2),
        outer_optimizer=sgd(case.outer, 0.5),
        inner_steps=2,
        inner_start="restart",
    )
    start = copy.deepcopy(case.inner.state_dict())
    solver.step(case.train[0], case.val)
    shared = {name: value.clone() for name, value in case.outer.state_dict().items() if "stem" in name}
    assert not torch.equal(shared["stem.0.weight"], start["0.weight"])
    again = case.solver(
        torch.optim.SGD(own, lr=0.1),
        Unrolled(2),
        outer_optimizer=sgd(case.outer, 0.5),
        inner_start="restart",
    )
    again.load_state_dict(solver.state_dict())
    for one in (solver, again):
        one._restart.restore()  # type: ignore[union-attr]
        for name, value in case.outer.state_dict().items():
            assert name not in shared or torch.equal(value, shared[name]), name
        for name, value in case.inner.state_dict().items():
            assert name.startswith(("0.", "1.")) or torch.equal(value, start[name]), name


def test_more_live_steps_than_unrolled_ones_may_have_a_batch_each() -> None:
    case = zoo.reweighted_mlp()
    solver = case.solver(sgd(case.inner), Unrolled(2), inner_steps=5)
    expected = solver.hypergradient(Batches(case.train[:2]), case.val)
    twin, twin_optimizer = copy.deepcopy((case.inner, solver.inner_optimizer))
    info = solver.step(Batches(case.train[:5]), case.val)
    assert info.unroll_losses == tuple(expected.inner_losses.tolist())
    assert info.hypergradient_norm == pytest.approx(float(expected.norm()), rel=1e-13)
    for batch in case.train[:5]:  # with the new outer parameters
        twin_optimizer.zero_grad()
        case.inner_loss(twin, case.outer, batch).backward(inputs=list(twin.parameters()))
        twin_optimizer.step()
    same(case.inner, twin, 1e-14)
    bilevel.fit(solver, case.train, [case.val], steps=1, batches_per_step=5)
    with pytest.raises(BatchError, match="7 batches for 2 steps"):
        solver.step(Batches([*case.train, *case.train[:2]]), case.val)


@pytest.mark.parametrize(
    "options", [{"unroll": "both"}, {"inner_start": "cold"}, {"autocast": torch.float32}]
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    case = zoo.reweighted_mlp()
    with pytest.raises(OptionError, match=next(iter(options))):
        case.solver(sgd(case.inner), GaussNewton(), **options)


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
