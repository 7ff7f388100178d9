"""What the processes of a run tell each other, and what is said of one that does not answer."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..errors import ConfigError, IstdError, ProcessError

T = TypeVar("T")

_PULSE = 1.0
"""Seconds between two signs of life."""
_LAST_PULSE = 3.0
"""Seconds that a process which fails gives the others to hear of it."""
_FAILED = "failed"
_LOST = ("gloo", "NCCL", "Connection", "closed by peer", "pair closure", "Socket", "Broken pipe")
"""What messages of torch.distributed hold when another process does not answer."""


class Messages:
    """Messages between all processes of torch's default group, through the memory of the host.

    They have two gloo groups of their own, so the default one may be of any kind. All processes have to make
    one at the same time and to send the same messages in the same order.

    Args:
        timeout: how long to wait for an answer; not for the end of work, see `at_work`.

    Raises:
        ConfigError: this build of PyTorch has no gloo.
    """

    def __init__(self, timeout: timedelta) -> None:
        if not dist.is_gloo_available():
            raise ConfigError("several processes need a build of PyTorch with gloo")
        self._group: Any = dist.new_group(backend="gloo", timeout=timeout)
        self._pulses: Any = dist.new_group(backend="gloo", timeout=timeout)
        store = getattr(self._pulses, "get_group_store", None)  # not in the first versions that are supported
        self._store: Any = None if store is None else store()

    def sum(self, counts: Sequence[int]) -> list[int]:
        """The sum of each count over the processes."""
        total = torch.tensor(counts, dtype=torch.int64)
        dist.all_reduce(total, group=self._group)
        return total.tolist()

    def gather(self, value: T) -> list[T]:
        """What each process gives, by rank."""
        shares: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(shares, value, group=self._group)
        return shares

    def from_first(self, value: T) -> T:
        """What the first process gives, in all of them."""
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A block that ends when it has ended in all processes, however long that takes in some of them.

        Meanwhile a thread of each shows that it lives. Nothing else may be sent inside of the block.

        Raises:
            ProcessError: another process has failed in it, has ended, or shows no sign of life.
        """
        pulse = _Pulse(self._pulses)
        try:
            yield
        except BaseException as error:
            self.tell(error)
            pulse.end(failed=True)
            raise
        with self.naming():
            if pulse.end():
                raise self._lost()

    def naming(self) -> AbstractContextManager[None]:
        """As `naming_loss`, with the reason that another process has left."""
        return naming_loss(self._lost)

    def tell(self, error: BaseException) -> None:
        """Leave word for the others of why this process ends; the first word of all stays."""
        if self._store is None or isinstance(error, ProcessError):
            return
        with contextlib.suppress(RuntimeError):  # who kept it may be gone
            self._store.compare_set(_FAILED, "", json.dumps([dist.get_rank(), _said(error)]))

    def close(self, failed: bool) -> None:
        """End both groups; after a failure at once, so that the others hear of it."""
        for group in (self._group, self._pulses):
            end_group(group, failed)
        self._group = self._pulses = self._store = None

    def _lost(self, error: RuntimeError | None = None) -> ProcessError:
        """What is to be said of another process: its own reason, if it could leave one."""
        with contextlib.suppress(RuntimeError):  # who kept it may be gone
            if self._store is not None and self._store.check([_FAILED]):
                return _failed(*json.loads(self._store.get(_FAILED)))
        return _lost(error)


class _Pulse:
    """The sign of life of a process that is at work; the others send theirs at the same time."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self._done = threading.Event()
        self._failed = self._heard = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def end(self, failed: bool = False) -> bool:
        """Say that the work is done, and wait until all have said so; whether it has failed in another one.

        Raises:
            Exception: what the thread met.
        """
        self._failed = failed
        self._done.set()
        self._thread.join(_LAST_PULSE if failed else None)
        if self._error is not None and not failed:
            raise self._error
        return self._heard

    def _run(self) -> None:
        working = 1
        try:
            while working and not self._heard:
                self._done.wait(_PULSE)
                state = torch.tensor([not self._done.is_set(), self._failed], dtype=torch.int64)
                dist.all_reduce(state, group=self._group)
                working, self._heard = int(state[0]), bool(state[1])
        except Exception as error:  # told in the thread that waits
            self._error = error


@contextmanager
def naming_loss(
    name: Callable[[RuntimeError | None], ProcessError] | None = None,
) -> Iterator[None]:
    """Name what goes wrong inside of the block because other processes are gone.

    Raises:
        ProcessError: that is so.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or any(sign in str(error) for sign in _LOST)):
            raise
        raise (name or _lost)(error) from error


def _lost(error: RuntimeError | None) -> ProcessError:
    return ProcessError(
        "another process of this run has ended, or does not answer",
        found=None if error is None else str(error).splitlines()[0][:300],
        fix="see what it has printed; --resume goes on from the last checkpoint",
    )


def _failed(rank: int, said: str) -> ProcessError:
    return ProcessError(
        f"process {rank} of this run has ended",
        found=said,
        fix="mend that; --resume goes on from the last checkpoint",
    )


def end_group(group: Any, failed: bool) -> None:
    """End a process group, None is the default one; after a failure without waiting for the others.

    NCCL waits for kernels in flight, which wait for the others, unless they are aborted first. Where torch
    cannot do that, its group ends with the process.
    """
    if not failed:
        dist.destroy_process_group(group)
        return
    ended = dist.group.WORLD if group is None else group
    abort = getattr(ended, "abort", None)
    if abort is None and "nccl" in dist.get_backend_config(group):
        return
    with contextlib.suppress(RuntimeError):
        if abort is not None:
            abort()
    with contextlib.suppress(RuntimeError):
        dist.destroy_process_group(group)


def _said(error: BaseException) -> str:
    """An error in a line or a few, for the other processes."""
    if isinstance(error, KeyboardInterrupt):
        return "it was told to stop"
    text = str(error) if isinstance(error, IstdError) else f"{type(error).__name__}: {error}"
    return text[:800]
