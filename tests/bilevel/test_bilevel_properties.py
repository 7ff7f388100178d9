"""What holds for every problem: exact modes agree, with real training too; nothing live changes.

Each example is a random network, inner optimiser, outer module and batch structure (`bilevel_worlds`). The
examples are the same at every run; BILEVEL_EXAMPLES=50 tries 50 times as many, chosen at random.
"""

from __future__ import annotations

import copy
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
from bilevel_random import ask, close, examples, flat, identical, methods, same, worlds
from bilevel_worlds import Built, World, build
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bilevel import ForwardMode, Unrolled, hypergradient

pytestmark = pytest.mark.filterwarnings("ignore::bilevel.LinearSolveWarning")


@examples(40)
@given(world=worlds(), chunk_size=st.sampled_from([None, 1, 2]), walked_back=st.sampled_from([0, 0, 1, None]))
def test_exact_modes_agree(world: World, chunk_size: int | None, walked_back: int | None) -> None:
    built = build(world)
    adjoint = ask(built, Unrolled(world.steps))
    assert all(bool(torch.isfinite(one).all()) for one in adjoint.values())
    for storage in ("cpu", "checkpoints"):
        assert same(ask(built, Unrolled(world.steps, trajectory=storage)), adjoint), storage
    for method in (
        Unrolled(world.steps, mode="graph"),
        Unrolled(world.steps, products="forward-over-reverse"),
        ForwardMode(world.steps, chunk_size, walked_back),
    ):
        found = ask(built, method)
        assert close(found, adjoint, 1e-9), method
        torch.testing.assert_close(found.inner_losses, adjoint.inner_losses, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(found.outer_loss, adjoint.outer_loss, rtol=1e-12, atol=1e-14)


@examples(25)
@given(world=worlds(steps=st.integers(2, 5)), data=st.data())
def test_truncated_unrolls_agree_and_the_longest_is_the_full_one(world: World, data: st.DataObject) -> None:
    built = build(world)
    assert same(ask(built, Unrolled(world.steps, truncate=world.steps)), ask(built, Unrolled(world.steps)))
    truncate = data.draw(st.integers(1, world.steps - 1), label="truncate")
    short = ask(built, Unrolled(world.steps, truncate))
    for storage in ("cpu", "checkpoints"):
        assert same(ask(built, Unrolled(world.steps, truncate, trajectory=storage)), short), storage
    assert close(ask(built, Unrolled(world.steps, truncate, mode="graph")), short, 1e-9)


def slope_of_real_training(world: World, built: Built, direction: dict[str, Tensor], width: float) -> float:
    values = [
        zoo.live_outer_loss(
            built.plain,
            built.optimizer,
            {name: factor * width * one for name, one in direction.items()},
            world.steps,
            seed=1,
        )
        for factor in (-2, -1, 1, 2)
    ]
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * width)


def test_equals_central_differences_of_real_training() -> None:
    clear: list[bool] = []

    @examples(30)
    @given(world=worlds(smooth=True))
    def agree(world: World) -> None:
        built = build(world)
        found = ask(built, Unrolled(world.steps))
        live = zoo.live_outer_loss(
            built.plain,
            built.optimizer,
            {name: torch.zeros_like(one) for name, one in found.items()},
            world.steps,
            seed=1,
        )
        assert float(found.outer_loss) == pytest.approx(live, rel=1e-11)
        size = float(found.norm())
        direction = {name: torch.randn_like(one) / flat(found).numel() ** 0.5 for name, one in found.items()}
        if size > 0:
            direction = {name: one + found[name] / size for name, one in direction.items()}
        along = float(flat(found) @ flat(direction))
        one, half = (slope_of_real_training(world, built, direction, width) for width in (2e-4, 1e-4))
        # Differences across a kink (amsgrad's max, a rectifier of MetaWeightNet) say nothing.
        clear.append(abs(one - half) < 1e-7 * size + 1e-10)
        if clear[-1]:
            assert abs(along - half) <= 1e-6 * size + 1e-10

    agree()
    assert sum(clear) >= 2 / 3 * len(clear), f"differences saw {sum(clear)} of {len(clear)} worlds"


def live_state(built: Built) -> Any:
    """Everything live, bit for bit, and whether each tensor is still the same, never written to."""
    modules = [*built.case.inner.modules(), *built.case.outer.modules()]
    tensors = [
        one
        for module in (built.case.inner, built.case.outer)
        for one in (*module.parameters(), *module.buffers())
    ]
    return copy.deepcopy(
        {
            "values": [one.detach() for one in tensors],
            "places": [(id(one), one._version, one.requires_grad) for one in tensors],
            "grad": [None if one.grad is None else (id(one.grad), one.grad._version) for one in tensors],
            "grad values": [one.grad for one in tensors if one.grad is not None],
            "modes": [module.training for module in modules],
            "hooks": [len(module._forward_hooks) for module in modules],
            "optimizer": built.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
    )


@examples(50)
@given(world=worlds(), with_grad=st.booleans(), data=st.data())
def test_nothing_live_changes_and_the_answer_is_repeatable(
    world: World, with_grad: bool, data: st.DataObject
) -> None:
    built = build(world)
    if with_grad:
        for parameter in (*built.case.inner.parameters(), *built.case.outer.parameters()):
            parameter.grad = torch.randn_like(parameter)
    method = data.draw(methods(world), label="method")
    torch.manual_seed(1)
    before = live_state(built)
    problem = built.case.problem()
    found = [
        hypergradient(problem, method, built.train, built.case.val, optimizer=built.optimizer)
        for _ in range(2)
    ]
    after = live_state(built)
    for key, value in before.items():
        assert identical(value, after[key]), key
    assert same(*found)
    assert torch.equal(found[0].outer_loss, found[1].outer_loss)


@examples(25)
@given(world=worlds(dropout=True), chunk_size=st.sampled_from([None, 1]))
def test_dropout_is_replayed(world: World, chunk_size: int | None) -> None:
    built = build(world)
    adjoint = ask(built, Unrolled(world.steps))
    assert same(ask(built, Unrolled(world.steps)), adjoint)
    assert same(ask(built, Unrolled(world.steps, trajectory="checkpoints")), adjoint)
    assert close(ask(built, Unrolled(world.steps, mode="graph")), adjoint, 1e-9)
    assert close(ask(built, Unrolled(world.steps, products="forward-over-reverse")), adjoint, 1e-9)
    assert close(ask(built, ForwardMode(world.steps, chunk_size, walked_back=0)), adjoint, 1e-9)
    others = [ask(built, Unrolled(world.steps), seed) for seed in (2, 3, 4)]
    assert any(not torch.equal(one.outer_loss, adjoint.outer_loss) for one in others)
