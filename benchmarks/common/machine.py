"""What figures were taken on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch

from istd import _provenance


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What every file of results says of a machine, and how busy it is now."""
    return {**_provenance.machine(device), "load": load()}


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
