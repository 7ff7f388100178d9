"""Worker processes: the modules they find, and how they ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

_BENCHMARKS = Path(__file__).resolve().parents[1]


def worker_environment() -> dict[str, str]:
    """The environment of a child that imports the benchmarks' packages and this checkout's libraries."""
    paths = [str(_BENCHMARKS), str(_BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def ending(code: int) -> str:
    """A sentence for the exit code of a process that ended badly."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"the process was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"the process ended with code {code}"
