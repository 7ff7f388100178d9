"""What was measured, one file a cell: an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from istd._files import write_text


@dataclass
class Cell:
    """A (problem, steps, method), and what is known of it.

    Attributes:
        status: "ok", "skipped" (it cannot run here) or "failed".
        reason: why it is not "ok".
        tensor_bytes: peak live tensor memory, see `bilevel.diagnostics._memory.LiveTensors`.
        resident_bytes: peak resident memory of a process that computed one hypergradient.
        resident_before_bytes: the same process just before it.
        trajectory_bytes: what T − 1 copies of the inner parameters take, for comparison.
        vector: the hypergradient to check.
        note: what the method has to say.
        seconds: one for each round of the timing.
        load: of the machine when the run began that took these seconds; None if unknown.
    """

    problem: str
    steps: int
    method: str
    status: str = "ok"
    reason: str = ""
    tensor_bytes: int = 0
    resident_bytes: int = 0
    resident_before_bytes: int = 0
    trajectory_bytes: int = 0
    vector: list[float] = field(default_factory=list)
    note: str = ""
    seconds: list[float] = field(default_factory=list)
    load: float | None = None

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def median(self) -> float:
        """Seconds of a hypergradient; 0 if it was not timed."""
        return statistics.median(self.seconds) if self.seconds else 0.0


class Store:
    """The cells in `folder`, measured under `settings`; cells of other settings do not count."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._folder = folder
        self._settings = settings

    def clear(self) -> None:
        """Forget all cells."""
        for path in self._folder.glob("*.json"):
            path.unlink()

    def load(self, problem: str, steps: int, method: str) -> Cell | None:
        """The cell, if it was measured under these settings."""
        try:
            content = json.loads(self._path(problem, steps, method).read_text(encoding="utf-8"))
            return Cell(**content["cell"]) if content["settings"] == self._settings else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, cell: Cell) -> None:
        """Keep the cell."""
        content = {"settings": self._settings, "cell": asdict(cell)}
        write_text(self._path(cell.problem, cell.steps, cell.method), json.dumps(content))

    def _path(self, problem: str, steps: int, method: str) -> Path:
        slug = re.sub(r"[^a-z0-9]+", "-", method.lower().replace("√", "root-")).strip("-")
        return self._folder / f"{problem}--{steps}--{slug}.json"
