"""Peak memory of the process, and a limit to it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path


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
