"""Where the adjoint walk keeps its steps: the same answer bit for bit, and the memory that was promised."""

from __future__ import annotations

import gc
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch

from bilevel import Batches, Unrolled, hypergradient
from bilevel._rng import RngState
from bilevel.errors import OptionError
from bilevel.hypergradients._trajectory import CheckpointTrajectory, CpuTrajectory, Snapshot
from bilevel.optim import SGD


@pytest.mark.parametrize("storage", ["checkpoints", "cpu"])
@pytest.mark.parametrize("name", ["momentum", "amsgrad"])
@pytest.mark.parametrize(("steps", "truncate"), [(1, None), (2, None), (7, None), (10, None), (9, 6)])
def test_same_bits_with_batchnorm_and_dropout(
    storage: Any, name: str, steps: int, truncate: int | None
) -> None:
    case = zoo.conv_net(steps=10)
    optimizer = zoo.OPTIMIZERS[name](case.inner.parameters())
    case.train_live(optimizer, 1)
    found = []
    for method in (Unrolled(steps, truncate), Unrolled(steps, truncate, trajectory=storage)):
        torch.manual_seed(3)
        found.append(
            hypergradient(case.problem(), method, Batches(case.train[:steps]), case.val, optimizer=optimizer)
        )
    assert torch.equal(found[0]["logits"], found[1]["logits"])
    assert torch.equal(found[0].inner_losses, found[1].inner_losses)


def snapshot(step: int) -> Snapshot:
    return Snapshot((torch.full((2,), float(step)),), (), {"b": torch.tensor(step)}, RngState.capture(()))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 10, 26, 100])
def test_checkpoints_hold_two_root_t_snapshots_and_repeat_each_step_at_most_once(count: int) -> None:
    alive: set[int] = set()
    repeated: list[int] = []

    def advance(at: Snapshot, step: int) -> Snapshot:
        assert float(at.inner[0][0]) == step
        repeated.append(step)
        alive.add(step + 1)
        return snapshot(step + 1)

    trajectory = CheckpointTrajectory(SGD([], []), 7, count, advance)
    for step in range(7, 7 + count):
        trajectory.push(snapshot(step))
    kept = len(trajectory._checkpoints)
    order, most = [], 0
    for one in trajectory.backwards():
        order.append(int(one.inner[0][0]))
        most = max(most, len(alive))
        alive.discard(order[-1])
    assert order == list(range(6 + count, 6, -1))
    assert len(set(repeated)) == len(repeated) < count
    assert kept + most <= 2 * count**0.5 + 1


def test_cpu_trajectory_gives_tensors_back_to_their_device() -> None:
    """The meta device stands in for an accelerator: values are lost, places are not."""
    trajectory = CpuTrajectory(SGD([], []))
    one = snapshot(0)
    state = ({"mean": torch.ones(3)}, None, 4)
    trajectory.push(Snapshot(one.inner, state, one.buffers, one.rng))
    trajectory._homes[0] = {0: [torch.device("meta")], 1: [torch.device("cpu")], 2: [torch.device("meta")]}
    (back,) = trajectory.backwards()
    assert back.inner[0].device.type == back.buffers["b"].device.type == "meta"
    assert back.state[0]["mean"].device.type == "cpu"
    assert back.state[1:] == (None, 4)


def test_checkpoints_keep_fewer_tensors_alive() -> None:
    case = zoo.reweighted_mlp()
    optimizer = torch.optim.Adam(case.inner.parameters(), lr=0.01)
    shape = case.inner[0].weight.shape
    alive: list[int] = []

    def counting(model: Any, weights: Any, batch: Any) -> torch.Tensor:
        """The outer loss is met where the forward steps end."""
        tensors = (one for one in gc.get_objects() if type(one) is torch.Tensor)
        alive.append(sum(one.shape == shape for one in tensors))
        return zoo.plain_loss(model, weights, batch)

    case.outer_loss = counting
    for storage in ("memory", "checkpoints"):
        method = Unrolled(36, trajectory=storage)  # type: ignore[arg-type]
        hypergradient(case.problem(), method, case.train[0], case.val, optimizer=optimizer)
    plain, checkpoints = alive
    assert plain >= 35 * 3  # parameters and two moments
    assert checkpoints <= plain / 2


@pytest.mark.parametrize("options", [{"trajectory": "disk"}, {"mode": "graph", "trajectory": "cpu"}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="trajectory"):
        Unrolled(2, **options)
