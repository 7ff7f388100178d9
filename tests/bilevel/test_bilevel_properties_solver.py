"""What holds for every problem under a `Solver`: batches of any structure, bit-exact resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bilevel_random import examples, identical, methods, same, worlds
from bilevel_worlds import Built, World, build
from hypothesis import assume, given
from hypothesis import strategies as st

from bilevel import Batches

pytestmark = pytest.mark.filterwarnings("ignore::bilevel.LinearSolveWarning")


@examples(30)
@given(
    world=worlds(),
    structure=st.sampled_from(["list", "dict", "nest"]),
    micro_batch=st.sampled_from([1, 2, 5, None]),
    device=st.sampled_from([None, "cpu"]),
    data=st.data(),
)
def test_the_structure_of_batches_does_not_matter(
    world: World, structure: str, micro_batch: int | None, device: str | None, data: st.DataObject
) -> None:
    assume(micro_batch != 1 or world.body != "conv" or world.mode != "train")
    method = data.draw(methods(world), label="method")
    found = []
    for one in ("tuple", structure):
        built = build(world, one)
        solver = built.case.solver(
            built.optimizer,
            method,
            inner_micro_batch=micro_batch,
            outer_micro_batch=micro_batch,
            device=device,
            on_nonfinite="skip",
        )
        torch.manual_seed(1)
        found.append(solver.hypergradient(built.train, built.case.val))
    assert same(*found)


@examples(25)
@given(
    world=worlds(),
    outer_optimizer=st.sampled_from(["SGD", "Adam", "Rprop", "RMSprop"]),
    inner_start=st.sampled_from(["warm", "restart"]),
    unroll=st.sampled_from(["look-ahead", "committed"]),
    data=st.data(),
)
def test_resume_is_bit_exact(
    world: World, outer_optimizer: str, inner_start: Any, unroll: Any, data: st.DataObject
) -> None:
    method = data.draw(methods(world), label="method")
    assume(method.unrolled_steps is not None or unroll == "committed" or inner_start == "warm")
    unrolled = method.unrolled_steps or world.steps

    def start(seed: int) -> tuple[Built, Any]:
        built = build(world)
        if seed:  # what is loaded must replace everything
            torch.manual_seed(seed)
            with torch.no_grad():
                for one in (*built.case.inner.parameters(), *built.case.outer.parameters()):
                    one += 0.1 * torch.randn_like(one)
        solver = built.case.solver(
            built.optimizer,
            method,
            outer_optimizer=getattr(torch.optim, outer_optimizer)(built.case.outer.parameters(), lr=0.05),
            inner_steps=unrolled,
            inner_start=inner_start,
            unroll=unroll,
            on_nonfinite="skip",
        )
        return built, solver

    def run(built: Built, solver: Any) -> list[Any]:
        train = built.train
        if method.unrolled_steps is None and isinstance(train, Batches) and len(train) != unrolled:
            train = built.case.train[0]
        seen = []
        for _ in range(2):
            info = solver.step(train, built.case.val)
            seen.append((info.inner_loss, info.outer_loss, info.hypergradient_norm, info.unroll_losses))
        return seen

    built, solver = start(0)
    torch.manual_seed(5)
    run(built, solver)
    state = solver.state_dict()
    expected = run(built, solver)
    other, resumed = start(17)
    torch.manual_seed(99)
    resumed.load_state_dict(state)
    again = run(other, resumed)
    assert str(again) == str(expected)  # as text, so that NaN equals NaN
    for mine, twin in ((built.case.inner, other.case.inner), (built.case.outer, other.case.outer)):
        for name, value in mine.state_dict().items():
            torch.testing.assert_close(twin.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)
    assert identical(solver.counts, resumed.counts)
