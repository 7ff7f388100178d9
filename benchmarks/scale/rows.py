"""What a cell measures: one row for each thing that it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypergradient.memory import ResidentPeak

Job = dict[str, Any]
"""One cell's name, its place on its axis, and the settings of the benchmark, as JSON."""

_T = TypeVar("_T")


@dataclass
class Row:
    """One measurement.

    Attributes:
        cell: the part of the benchmark that it belongs to.
        what: what was done.
        at: where, such as {"images": 400, "side": 256}.
        seconds: CPU seconds of all threads, in all.
        count: how many units were done, such as images or steps.
        peak: bytes of resident memory at most while it was done, above what there was before.
        stays: bytes of them that were still there afterwards.
        disk: bytes of the file that it wrote, if it wrote one.
        wall: seconds as the clock shows them; not in results of before they were kept.
    """

    cell: str
    what: str
    at: dict[str, Any]
    seconds: float
    count: int
    peak: int
    stays: int
    disk: int | None = None
    wall: float | None = None

    @property
    def each(self) -> float:
        """CPU seconds for one unit."""
        return self.seconds / self.count


@dataclass
class Recorder:
    """Takes the rows of one cell, one thing after the other."""

    cell: str
    at: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def measure(self, what: str, action: Callable[[], _T], count: int = 1) -> _T:
        """Do `action` once, and note what it cost."""
        memory = ResidentPeak()
        memory.start()
        began, started = time.process_time(), time.perf_counter()
        result = action()
        seconds, wall = time.process_time() - began, time.perf_counter() - started
        peak, before = memory.peak() - memory.before, memory.before
        memory.start()
        stays = memory.before - before
        self.rows.append(Row(self.cell, what, self.at, seconds, count, peak, stays, wall=wall))
        return result

    def best(self, what: str, action: Callable[[], object], repeats: int, count: int = 1) -> None:
        """Do `action` once without noting it, then keep the fastest of some repeats and the largest peak."""
        action()
        tried = Recorder(self.cell, self.at)
        for _ in range(repeats):
            tried.measure(what, action, count)
        fastest = min(tried.rows, key=lambda row: row.seconds)
        fastest.peak = max(row.peak for row in tried.rows)
        self.rows.append(fastest)


def of(rows: list[Row], cell: str, what: str) -> Iterator[Row]:
    """The rows of one kind."""
    return (row for row in rows if row.cell == cell and row.what == what)
