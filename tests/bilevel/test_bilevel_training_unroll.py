"""How a step unrolls: ahead or committed, warm or restarted, fewer steps than are taken."""

from __future__ import annotations

import copy
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
from bilevel_states import SCHEDULERS, same, sgd

import bilevel
from bilevel import (
    SAMA,
    Batches,
    GaussNewton,
    Unrolled,
)
from bilevel.errors import (
    BatchError,
    OptionError,
)


class Still(bilevel.UpdateRule):
    """An outer optimiser that moves nothing."""

    def init(self, params: Any) -> Any:
        return ()

    def update(self, params: Any, grads: Any, state: Any, outer: Any) -> Any:
        return params, state


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
