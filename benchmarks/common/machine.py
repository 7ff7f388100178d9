"""What figures were taken on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """Versions, processor, load, and the environment variables that change speed."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": load(),
        "environment": {
            key: value
            for key, value in sorted(os.environ.items())
            if key.startswith(("OMP_", "MKL_", "KMP_", "MALLOC_", "GLIBC_TUNABLES"))
        },
    }


def load() -> float | None:
    """Processes that ran or waited in the last minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def load_warning(loads: Iterable[float | None]) -> str:
    """A sentence if other programs were running when times were taken; empty if not."""
    worst = max((one for one in loads if one is not None), default=0.0)
    if worst < 0.5:
        return ""
    return (
        f"The machine was not idle when a run began that took times (load {worst:.1f}): they are unreliable."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
