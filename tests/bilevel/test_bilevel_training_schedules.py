"""Clipping and learning-rate schedulers at both levels, and a resume with everything on."""

from __future__ import annotations

import copy
import json
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
from bilevel_states import SCHEDULERS, plain, rebuilt, same, sgd
from torch import Tensor

from bilevel import (
    Batches,
    ClipNorm,
    ClipValue,
    Solver,
    Unrolled,
)
from bilevel.errors import (
    OptionError,
    StateError,
)
from bilevel.optim import LearnedSettings


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
    tensors = [tensor.clone() for tensor in tensors]
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
