"""What figures were taken on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from istd import _provenance


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What every file of results says of a machine, and how busy it is now."""
    return {**_provenance.machine(device), "load": load()}


def load() -> float | None:
    """Processes that ran or waited in the last minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def busy(seconds: float = 1.0) -> float | None:
    """The share of the machine's processor time that is used by anyone, looked at for some seconds.

    Before a measurement it tells whether the machine is quiet, which the load cannot: that still has in it
    what the measurement before has done. None where the system (not Linux) does not say.
    """
    before = _processor_times()
    time.sleep(seconds)
    after = _processor_times()
    if before is None or after is None or after[1] == before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])


def _processor_times() -> tuple[int, int] | None:
    """(used, used and idle) of all processors since the start of the system, in its clock ticks."""
    try:
        fields = [
            int(one) for one in Path("/proc/stat").read_text(encoding="ascii").split("\n")[0].split()[1:9]
        ]
    except OSError:
        return None
    return sum(fields) - fields[3] - fields[4], sum(fields)  # the fourth is idle, the fifth waits for disks


def load_warning(loads: Iterable[float | None]) -> str:
    """A sentence if other programs were running when times were taken; empty if not."""
    worst = max((one for one in loads if one is not None), default=0.0)
    if worst < 0.5:
        return ""
    return (
        f"The machine was not idle when a run began that took times (load {worst:.1f}): they are unreliable."
    )
