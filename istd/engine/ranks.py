"""What the processes of a run share, and what the first of them does for all."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from .._batch_parts import BatchParts, in_parts
from ..errors import ConfigError, ProcessError
from .messages import Messages

T = TypeVar("T")
P = ParamSpec("P")


class Ranks:
    """The processes of a run, seen from one of them; a single one by default, where nothing is ever sent.

    All of them have to call every method at the same place, with the same items.

    Args:
        rank: this process's number, from 0.
        size: how many there are.
        messages: to the others; None in a single process.

    Attributes:
        rank, size: as given.
        is_first: whether this is the one that owns the run folder, writes and prints.
    """

    def __init__(self, rank: int = 0, size: int = 1, messages: Messages | None = None) -> None:
        self.rank = rank
        self.size = size
        self.is_first = rank == 0
        self._messages = messages
        self._parts = BatchParts(rank, size)

    @contextmanager
    def in_turns(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        """Gives this process's share of some items, every `size`-th; ends when all have done theirs.

        That may take as long as it takes. In the block nothing else may be sent.
        """
        with self._at_work():
            yield items[self.rank :: self.size]

    def joined(self, results: Sequence[T]) -> list[T]:
        """What all processes made of their shares of some items, in the order of the items."""
        if self._messages is None:
            return list(results)
        shares = self._messages.gather(list(results))
        count = sum(map(len, shares))
        return [shares[number % self.size][number // self.size] for number in range(count)]

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        return self.sum(int(flag))[0] > 0

    def sum(self, *counts: int) -> list[int]:
        """The sum of each count over the processes."""
        return list(counts) if self._messages is None else self._messages.sum(counts)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes; no derivative."""
        if self.size == 1:
            return value
        value = value.detach().clone()
        self._parts.average([value])
        return value

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, in all of them; the others wait for as long as it takes."""
        if self._messages is None:
            return make()
        made: T | None = None
        with self._at_work():
            if self.is_first:
                made = make()
        return self._messages.from_first(made)  # type: ignore[return-value]

    def check_same(self, model: nn.Module) -> None:
        """Raise unless all processes hold the same weights, bit for bit.

        Raises:
            ProcessError: they do not, and nothing that comes of them would be of one run.
        """
        if self.size > 1 and len(set(self.joined([_digest(model)]))) > 1:
            raise ProcessError(
                "the processes have come to different weights",
                expected="the same step in all of them",
                fix="a method that takes its own steps averages its gradients before them, see "
                "`average_gradients` in istd.engine.methods; processes need machines of one kind",
            )

    def on_first(self, act: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do something in the first process only; the others wait for as long as it takes."""
        with self._at_work():
            if self.is_first:
                act(*args, **kwargs)

    def wait(self) -> None:
        """Until all processes are here."""
        with self._at_work():
            pass

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The first process runs the block, then the others do: they find what it has put into a cache."""
        if not self.is_first:
            self.wait()
        with self._at_work():
            yield
        if self.is_first:
            self.wait()

    def sharing(self) -> AbstractContextManager[None]:
        """Inside the block each process holds its part of every batch."""
        return in_parts(self._parts)

    def part_of(self, batch_size: int) -> tuple[int, int]:
        """This process's part of a batch: its first row, and how many rows it has.

        Raises:
            ConfigError: the batch cannot be cut into equal parts.
        """
        if batch_size % self.size:
            raise ConfigError(
                "the batch cannot be shared equally",
                found=f"--batch-size {batch_size} in {self.size} processes",
                expected=f"a multiple of {self.size}",
                fix="change --batch-size, or the number of processes",
            )
        share = batch_size // self.size
        return self.rank * share, share

    def _at_work(self) -> AbstractContextManager[None]:
        return nullcontext() if self._messages is None else self._messages.at_work()


ALONE = Ranks()
"""A run of one process."""


def _digest(model: nn.Module) -> int:
    digest = 0
    for value in model.state_dict().values():
        digest = zlib.crc32(value.detach().reshape(-1).cpu().view(torch.uint8).numpy(), digest)
    return digest
