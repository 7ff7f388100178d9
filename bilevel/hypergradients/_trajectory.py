"""The inner steps taken, kept so that they can be visited backwards."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
import torchopt
from torch import Tensor

from .._rng import RngState
from .._types import NamedTensors, Tensors
from ..optim import UpdateRule
from ..optim._base import State, replace_leaves


@dataclass(frozen=True)
class Snapshot:
    """Everything that an inner step starts from, so that the same step can be taken again.

    Attributes:
        inner: the inner parameters w, in the problem's order.
        state: the optimiser state.
        buffers: the buffers of the modules.
        rng: the random number generators.
    """

    inner: Tensors
    state: State
    buffers: NamedTensors
    rng: RngState


Storage: TypeAlias = Literal["memory", "cpu", "checkpoints"]
Advance: TypeAlias = Callable[[Snapshot, int], Snapshot]
"""Takes the step of the given number from a snapshot, the generators standing where it wants them."""


class Trajectory(ABC):
    """A stack of snapshots."""

    @abstractmethod
    def push(self, snapshot: Snapshot) -> None:
        """Keep the snapshot that the next step starts from."""

    @abstractmethod
    def backwards(self) -> Iterator[Snapshot]:
        """The snapshots, last first; each is let go when the next is asked for."""


def trajectory(storage: Storage, rule: UpdateRule, first: int, count: int, advance: Advance) -> Trajectory:
    """A place for the `count` snapshots of the steps `first`, `first + 1`, ..."""
    if storage == "cpu":
        return CpuTrajectory(rule)
    if storage == "checkpoints":
        return CheckpointTrajectory(rule, first, count, advance)
    return MemoryTrajectory(rule)


class MemoryTrajectory(Trajectory):
    """Keeps every snapshot where it is. What a step did not change is shared with the snapshot before it."""

    def __init__(self, rule: UpdateRule) -> None:
        self._linear = rule.linear
        self._snapshots: list[Snapshot] = []

    def push(self, snapshot: Snapshot) -> None:
        """See `Trajectory.push`."""
        before = self._snapshots[-1] if self._snapshots else None
        state = replace_leaves(snapshot.state, _hollow) if self._linear else snapshot.state
        buffers, rng = snapshot.buffers, snapshot.rng
        if before is not None:
            buffers = {name: _shared(before.buffers[name], buffer) for name, buffer in buffers.items()}
            rng = before.rng if before.rng.same_as(rng) else rng
        self._snapshots.append(replace(snapshot, state=state, buffers=buffers, rng=rng))

    def backwards(self) -> Iterator[Snapshot]:
        """See `Trajectory.backwards`."""
        while self._snapshots:
            yield self._snapshots.pop()


class CpuTrajectory(Trajectory):
    """Keeps snapshots in the memory of the CPU and brings one at a time back to where it was."""

    def __init__(self, rule: UpdateRule) -> None:
        self._kept = MemoryTrajectory(rule)
        self._homes: list[dict[int, list[torch.device]]] = []

    def push(self, snapshot: Snapshot) -> None:
        """See `Trajectory.push`."""
        self._homes.append({part: [one.device for one in _tensors(snapshot, part)] for part in range(3)})
        self._kept.push(_moved(snapshot, {}))

    def backwards(self) -> Iterator[Snapshot]:
        """See `Trajectory.backwards`."""
        for snapshot in self._kept.backwards():
            yield _moved(snapshot, self._homes.pop())


class CheckpointTrajectory(Trajectory):
    """Keeps about every √T-th snapshot and takes the steps between two of them again when it walks back.

    About 2√T snapshots live at a time, for one more gradient of the inner loss a step (Chen et al. 2016,
    "Training deep nets with sublinear memory cost", section 4.1). Buffers and random numbers are replayed, so
    the snapshots are bit for bit those of the first time.
    """

    def __init__(self, rule: UpdateRule, first: int, count: int, advance: Advance) -> None:
        self._rule = rule
        self._first = first
        self._advance = advance
        self._length = max(1, math.ceil(math.sqrt(count)))
        self._checkpoints: list[Snapshot] = []
        self._pushed = 0

    def push(self, snapshot: Snapshot) -> None:
        """See `Trajectory.push`."""
        if self._pushed % self._length == 0:
            self._checkpoints.append(snapshot)
        self._pushed += 1

    def backwards(self) -> Iterator[Snapshot]:
        """See `Trajectory.backwards`."""
        end = self._pushed
        while self._checkpoints:
            now = self._checkpoints.pop()
            begin = len(self._checkpoints) * self._length
            segment = MemoryTrajectory(self._rule)
            now.rng.restore()
            for index in range(begin, end - 1):
                segment.push(now)
                now = self._advance(now, self._first + index)
            segment.push(now)
            del now
            yield from segment.backwards()
            end = begin


def _tensors(snapshot: Snapshot, part: int) -> list[Tensor]:
    tree = (snapshot.inner, snapshot.state, snapshot.buffers)[part]
    return [leaf for leaf in torchopt.pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _moved(snapshot: Snapshot, homes: dict[int, list[torch.device]]) -> Snapshot:
    """The snapshot with its tensors on the devices listed in the order of its leaves, or all on the CPU."""
    parts = []
    for part, tree in enumerate((snapshot.inner, snapshot.state, snapshot.buffers)):
        following = iter(homes[part]) if homes else itertools.repeat(torch.device("cpu"))
        parts.append(
            torchopt.pytree.tree_map(
                lambda leaf, at=following: leaf.to(next(at)) if isinstance(leaf, Tensor) else leaf, tree
            )
        )
    return replace(snapshot, inner=parts[0], state=parts[1], buffers=parts[2])


def _hollow(tensor: Tensor) -> Tensor:
    """Zeros of the same shape in the memory of one: a linear rule's adjoint asks for no values."""
    return torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)


def _shared(old: Tensor, new: Tensor) -> Tensor:
    """The old tensor if the new one equals it; a small one on an accelerator is not worth waiting for."""
    if old is new or old.shape != new.shape or old.dtype != new.dtype:
        return new
    if new.device.type != "cpu" and new.nbytes < 2**20:
        return new
    return old if torch.equal(old, new) else new
