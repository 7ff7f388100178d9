"""The cells of the benchmark. A new one is a module with two functions."""

from __future__ import annotations

from typing import Protocol

from . import clusters, growth, ranks, sizes, steps
from .rows import Job, Row


class Cell(Protocol):
    """One axis, or several that belong together."""

    def jobs(self, quick: bool) -> list[Job]:
        """What to measure, one process each; `quick` is a smoke test."""

    def measure(self, job: Job) -> list[Row]:
        """Measure one of them, in a process of its own."""


CELLS: dict[str, Cell] = {
    "growth": growth,
    "sizes": sizes,
    "steps": steps,
    "clusters": clusters,
    "ranks": ranks,
}
ON_ONE_PROCESSOR = [name for name in CELLS if name != "ranks"]
"""Those that leave the machine's other processors alone, and are measured together."""
