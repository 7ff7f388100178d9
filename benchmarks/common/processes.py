"""Worker processes: the modules they find, whom they end with, and how they ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

_BENCHMARKS = Path(__file__).resolve().parents[1]
_DRIVER = "ISTD_BENCHMARK_DRIVER"


def worker_environment() -> dict[str, str]:
    """The environment of a child that imports the benchmarks' packages and this checkout's libraries."""
    paths = [str(_BENCHMARKS), str(_BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(path for path in paths if path)
    return {**os.environ, "PYTHONPATH": path, _DRIVER: str(os.getpid())}


def end_with_parent(parent: str | None = None) -> None:
    """Be asked to stop (SIGTERM) when the process that started this one is gone (Linux).

    Args:
        parent: its number, to end at once if it is gone already; None for the one that gave this process the
            environment above, if any did.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    parent = parent or os.environ.get(_DRIVER)
    if parent is not None and parent != str(os.getppid()):
        sys.exit(128 + signal.SIGTERM)


def ending(code: int) -> str:
    """A sentence for the exit code of a process that ended badly."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"the process was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"the process ended with code {code}"
