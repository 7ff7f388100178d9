"""Peak memory: of live tensors, and of the process."""

from __future__ import annotations

import contextlib
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of tensor storages that come to life while it is on, until they are freed.

    What it counts: the whole storage of every tensor that an operator returns, once however many views look
    at it, from the operator's return until the storage is freed; saved for a backward pass or held by Python
    is the same. What existed before (parameters, batches) is not counted, unless an operator replaces it.
    What it misses: scratch memory that a kernel takes and gives back within one operator, memory outside of
    tensors (graph nodes, the oneDNN caches, Python), and tensors made without the dispatcher.

    Attributes:
        now: live bytes.
        peak: the most that `now` was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}
        self._old: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # An operator may hand back a storage that it was given; if it is not ours, it was there before.
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and _has_storage(leaf):
                key = leaf.untyped_storage()._cdata
                if key not in self._sizes and key not in self._old:
                    self._old.add(key)
                    weakref.finalize(leaf.untyped_storage(), self._old.discard, key)
        result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _has_storage(leaf):
                self._meet(leaf.untyped_storage())
        return result

    def _meet(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._old:
            return
        size = storage.nbytes()
        if key not in self._sizes:
            weakref.finalize(storage, self._free, key)
        self.now += size - self._sizes.get(key, 0)  # a storage can be resized
        self._sizes[key] = size
        self.peak = max(self.peak, self.now)

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _has_storage(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.device.type != "meta"


class ResidentPeak:
    """The peak resident set of this process since `start()`, in bytes.

    On Linux the kernel's high-water mark (VmHWM) is reset at the start, so that imports and what the parent
    process used do not count. Elsewhere it is `ru_maxrss` since the process began.
    """

    def __init__(self) -> None:
        self.before = 0

    def start(self) -> None:
        """Reset the high-water mark and remember what is resident now."""
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self.before = _status("VmRSS") or _maxrss()

    def peak(self) -> int:
        """The high-water mark."""
        return _status("VmHWM") or _maxrss()


def limit_memory(size: int) -> None:
    """Let allocations beyond so many bytes fail in this process, so that a cell fails and not the machine."""
    try:
        import resource
    except ImportError:  # Windows
        return
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (size, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def available_memory() -> int:
    """Bytes of memory that a new process can have; 0 if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":")), 0)


def _maxrss() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
