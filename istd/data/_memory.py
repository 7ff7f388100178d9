"""How much memory the pixels of a split may take."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_SHARE = 0.5  # of what is free, for the pixels of one process; the rest is for networks, labels and caches
_CGROUPS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def pixel_budget(memory_gb: float | None, device: torch.device) -> float:
    """Bytes that pixels may take on `device`: so many GiB, or by default half of what is free there now.

    Processes that `torchrun` started on one machine share what is free. Where that cannot be told, everything
    fits.
    """
    if memory_gb is not None:
        return memory_gb * 2**30
    if device.type == "cuda":
        return _SHARE * torch.cuda.mem_get_info(device)[0]
    return _SHARE * _free_on_host() / max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _free_on_host() -> float:
    """What this machine, and the container on it, have left; memory that caches files counts as free."""
    free = float("inf")
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            free = 1024.0 * float(line.split()[1])
    root = Path("/sys/fs/cgroup")
    for limit, used in _CGROUPS:
        allowed, taken = _lines(root / limit), _lines(root / used)
        if allowed and taken and allowed[0].isdigit() and taken[0].isdigit():
            stat = (root / used).with_name("memory.stat")
            cached = [int(line.split()[1]) for line in _lines(stat) if line.startswith("inactive_file ")]
            free = min(free, float(max(0, int(allowed[0]) - int(taken[0]) + sum(cached))))
    return free


def _lines(path: Path) -> list[str]:
    """The lines of a file of the kernel's; none where there is no such file."""
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
