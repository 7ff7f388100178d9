"""Peak memory of a call: tensors alive on the CPU, or the allocator's peak on CUDA devices."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

R = TypeVar("R")


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of storages that operators return inside the block, until they are freed.

    Forward, backward and double backward are all seen, and so is what autograd saves, because that is made
    of such tensors; a storage counts once however many views it has, and one that was alive before counts
    not at all. Scratch space inside a single operator is not seen.

    Attributes:
        now: bytes alive.
        peak: the most that `now` was.
    """

    def __init__(self, known: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._alive: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._known = [tensor.untyped_storage() for tensor in known]  # held, so that their ids stay theirs
        self._known_ids = {id(storage) for storage in self._known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operator, then look at what it returns."""
        result = func(*args, **(kwargs or {}))
        given = {id(one.untyped_storage()) for one in tree_leaves((args, kwargs)) if _on_cpu(one)}
        for one in tree_leaves(result):
            if _on_cpu(one):
                self._see(one.untyped_storage(), given)
        return result

    def _see(self, storage: Any, given: set[int]) -> None:
        key = id(storage)
        # A view or an in-place result lives in a storage that was counted when it came to be, or is older.
        if key in self._known_ids or (key in given and key not in self._alive):
            return

        def gone(_: object) -> None:
            self.now -= self._alive.pop(key)[1]

        reference, before = self._alive.get(key) or (weakref.ref(storage, gone), 0)
        size = storage.nbytes()  # a storage can be resized
        self._alive[key] = (reference, size)
        self.now += size - before
        self.peak = max(self.peak, self.now)


def _on_cpu(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cpu" and value.layout == torch.strided


def peak_bytes(
    call: Callable[[], R], devices: Sequence[torch.device], known: Sequence[Tensor] = ()
) -> tuple[R, int]:
    """Run `call`; how many bytes it needed at its peak, above what was there before.

    With CUDA devices it is the sum over them of torch's allocator's peak, above its level before; without,
    see `LiveTensors`.
    """
    cuda = [device for device in devices if device.type == "cuda"]
    if not cuda:
        with LiveTensors(known) as mode:
            result = call()
        return result, mode.peak
    before = {}
    for device in cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before[device] = torch.cuda.memory_allocated(device)
    result = call()
    peak = 0
    for device in cuda:
        torch.cuda.synchronize(device)
        peak += torch.cuda.max_memory_allocated(device) - before[device]
    return result, peak
