"""The processes that train one detector together, as torchrun starts them."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .._batch_parts import BatchParts, in_parts
from ..errors import ConfigError, ProcessError
from .runtime import choose_device

T = TypeVar("T")
P = ParamSpec("P")

_LOST = ("gloo", "NCCL", "Connection", "closed by peer", "pair closure", "Socket", "Broken pipe")
"""What messages of torch.distributed hold when another process does not answer."""


class Ranks:
    """The processes of a run, seen from one of them; a single one by default, where nothing is ever sent.

    Every method but `on_first` is a message that all processes have to send.

    Attributes:
        rank: this process's number, from 0.
        size: how many there are.
        is_first: whether this is the one that owns the run folder, writes and prints.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self.is_first = rank == 0
        self._parts = BatchParts(rank, size)

    def own(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of some items: every `size`-th."""
        return items[self.rank :: self.size]

    def joined(self, results: Sequence[T]) -> list[T]:
        """What all processes made of their `own` items, in the order of the items."""
        if self.size == 1:
            return list(results)
        shares: list[Any] = [None] * self.size
        with _talking():
            dist.all_gather_object(shares, list(results))
        count = sum(map(len, shares))
        return [shares[number % self.size][number // self.size] for number in range(count)]

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        return flag if self.size == 1 else self.sum(int(flag))[0] > 0

    def sum(self, *counts: int) -> list[int]:
        """The sum of each count over the processes."""
        if self.size == 1:
            return list(counts)
        total = torch.tensor(counts, dtype=torch.int64)
        with _talking():
            dist.all_reduce(total)
        return total.tolist()

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes; no derivative."""
        if self.size == 1:
            return value
        value = value.detach().clone()
        with _talking():
            self._parts.average([value])
        return value

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, in all of them."""
        if self.size == 1:
            return make()
        box: list[Any] = [make() if self.is_first else None]
        with _talking():
            dist.broadcast_object_list(box)
        return box[0]

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
        """Do something in the first process only; the others go on."""
        if self.is_first:
            act(*args, **kwargs)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            self.sum(0)

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The first process runs the block, then the others do: they find what it has put into a cache."""
        if not self.is_first:
            self.wait()
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


ALONE = Ranks()
"""A run of one process."""


def launched() -> tuple[int, int]:
    """(rank, number of processes) of this program, as torchrun or the like has started it; (0, 1) alone."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if any(name not in os.environ for name in names):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def rank_device(name: str) -> torch.device:
    """The device for `--device` in one of several processes: on CUDA each takes the GPU of its local rank.

    Raises:
        ConfigError: as `choose_device` does; or there are not enough GPUs, or it is another kind of device.
    """
    if launched()[1] == 1:
        return choose_device(name)
    if name in ("auto", "cuda") and torch.cuda.is_available():
        local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= count:
            raise ConfigError(
                "each process needs a GPU of its own",
                found=f"process {local} of this machine, which has {count}",
                fix="start fewer processes on each machine, or use --device cpu",
            )
        return torch.device("cuda", local)
    device = choose_device(name)
    if device.type != "cpu":
        raise ConfigError(
            "several processes cannot share a device",
            found=f"--device {name}",
            expected="auto or cuda, which give each process its own GPU, or cpu",
        )
    return device


@contextmanager
def open_ranks(device: torch.device, timeout: float) -> Iterator[Ranks]:
    """The processes of this program, for the time of the block; they all have to end it.

    Args:
        device: of this process; on CUDA, messages between GPUs go through NCCL.
        timeout: seconds to wait for an answer of the others.

    Raises:
        ProcessError: another process has ended or does not answer.
    """
    rank, size = launched()
    if size == 1:
        yield Ranks()
        return
    made = not dist.is_initialized()
    with _talking():
        if made:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        try:
            ranks = Ranks(rank, size)
            yield ranks
            ranks.wait()
        finally:
            # The others learn of a failure by the end of the connection. NCCL may wait for them instead, so
            # there it is the end of the process that tells them.
            if made and (device.type == "cpu" or sys.exc_info()[0] is None):
                dist.destroy_process_group()


def _digest(model: nn.Module) -> int:
    digest = 0
    for value in model.state_dict().values():
        digest = zlib.crc32(value.detach().reshape(-1).cpu().view(torch.uint8).numpy(), digest)
    return digest


@contextmanager
def _talking() -> Iterator[None]:
    """Name what went wrong when other processes are gone."""
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        if not (isinstance(error, dist.DistError) or any(sign in message for sign in _LOST)):
            raise
        raise ProcessError(
            "another process of this run has ended, or does not answer",
            found=message.splitlines()[0][:300],
            fix="see what it has printed; --resume goes on from the last checkpoint",
        ) from error
