"""What a cell costs, added up over the processes that worked on it."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from hypergradient.memory import ResidentPeak

from istd._files import write_json

from .probe import Probe
from .store import read_json

_SUMS = ("seconds", "cpu_seconds", "probe_seconds", "probe_cpu_seconds")


class Usage:
    """Seconds and peak memory of this process, on top of those that earlier ones left in a file.

    What a killed process did after its last checkpoint is done again, and is counted once.

    Args:
        path: the file.
        probe: its seconds are part of the sums, and are also given apart.
    """

    def __init__(self, path: Path, probe: Probe | None) -> None:
        self._path = path
        self._probe = probe
        self._before = read_json(path) or {}
        self._began = time.perf_counter()
        self._peak = ResidentPeak()

    def now(self) -> dict[str, float]:
        """Seconds of work, CPU seconds of the process, both with those of the probe, and peak bytes:
        resident, and allocated on the GPU.
        """
        probe = self._probe
        here = {
            "seconds": time.perf_counter() - self._began,
            "cpu_seconds": time.process_time(),
            "probe_seconds": 0.0 if probe is None else probe.seconds,
            "probe_cpu_seconds": 0.0 if probe is None else probe.cpu_seconds,
        }
        total = {name: here[name] + self._before.get(name, 0.0) for name in _SUMS}
        cuda = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
        total["cuda_peak_bytes"] = max(cuda, self._before.get("cuda_peak_bytes", 0))
        total["peak_bytes"] = max(self._peak.peak(), self._before.get("peak_bytes", 0))
        total["processes"] = self._before.get("processes", 0) + 1
        return total

    def save(self) -> None:
        """Write `now()`, with a checkpoint."""
        write_json(self._path, self.now())
