"""A batch of which each of several processes holds an equal part, and what losses ask about the whole.

A loss of the whole batch is the mean of those of its parts only if no image in it knows of the others. Batch
normalisation, focal loss, the hardest pixels and normalised weights do know; they ask `current_parts()`. The
training loop says with `in_parts` that a batch is such a part; everywhere else a batch is whole, and asking
costs nothing.

What one process computes of the whole differentiates like this: each process differentiates its own loss, and
the derivative of a sum over the processes is the sum of theirs. The mean of all parameter gradients is then
the gradient of the mean loss, and the same holds for every further derivative (`bilevel.distributed` takes
that mean at the parameters).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class BatchParts:
    """The equal parts of a batch, one in each process of torch's default group, in the order of their ranks.

    Args:
        rank: which part is this process's.
        size: how many there are; 1 is a whole batch, and nothing is sent.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes; differentiable, any number of times."""
        return values if self.size == 1 else _Sum.apply(values)

    def stacked(self, values: Tensor) -> Tensor:
        """The tensors of all processes, [size, ...]; differentiable, any number of times."""
        if self.size == 1:
            return values[None]
        places = values.new_zeros(self.size, *values.shape)
        places[self.rank] = values
        return self.sum(places)

    def joined(self, rows: Tensor) -> Tensor:
        """The rows of the whole batch, of this part's."""
        return rows if self.size == 1 else self.stacked(rows).flatten(0, 1)

    def own(self, rows: Tensor) -> Tensor:
        """This part's rows, of those of the whole batch."""
        return rows if self.size == 1 else rows.tensor_split(self.size)[self.rank]

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over the processes in the place of each tensor, by one message for each type."""
        if self.size == 1:
            return
        for key in dict.fromkeys((tensor.dtype, tensor.device) for tensor in tensors):
            chosen = [tensor for tensor in tensors if (tensor.dtype, tensor.device) == key]
            flat = torch.cat([tensor.reshape(-1) for tensor in chosen])
            dist.all_reduce(flat)
            flat /= self.size
            for tensor, mean in zip(chosen, flat.split([one.numel() for one in chosen]), strict=True):
                tensor.copy_(mean.view(tensor.shape))


class _Sum(torch.autograd.Function):
    """The sum over the processes; so is its derivative."""

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        total = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _Sum.apply(grad)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Any:
        return _Sum.apply(tangent)


WHOLE = BatchParts()
"""A batch that no other process holds a part of."""

_current: ContextVar[BatchParts] = ContextVar("parts", default=WHOLE)


def current_parts() -> BatchParts:
    """What the batch at hand is a part of; `WHOLE` unless the training loop says otherwise."""
    return _current.get()


@contextmanager
def in_parts(parts: BatchParts) -> Iterator[None]:
    """Inside the block every batch is such a part. All processes must do the same things in it."""
    token = _current.set(parts)
    try:
        yield
    finally:
        _current.reset(token)
