"""The inner steps taken, kept so that they can be visited backwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
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


class MemoryTrajectory:
    """Keeps every snapshot where it is. What a step did not change is shared with the snapshot before it."""

    def __init__(self, rule: UpdateRule) -> None:
        self._linear = rule.linear
        self._snapshots: list[Snapshot] = []

    def push(self, snapshot: Snapshot) -> None:
        """Keep the snapshot that the next step starts from."""
        before = self._snapshots[-1] if self._snapshots else None
        state = replace_leaves(snapshot.state, _hollow) if self._linear else snapshot.state
        buffers, rng = snapshot.buffers, snapshot.rng
        if before is not None:
            buffers = {name: _shared(before.buffers[name], buffer) for name, buffer in buffers.items()}
            rng = before.rng if before.rng.same_as(rng) else rng
        self._snapshots.append(replace(snapshot, state=state, buffers=buffers, rng=rng))

    def backwards(self) -> Iterator[Snapshot]:
        """The snapshots, last first; each is let go when the next is asked for."""
        while self._snapshots:
            yield self._snapshots.pop()


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
