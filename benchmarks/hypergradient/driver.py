"""Has each measurement made, in a process of its own, and keeps what it says; a failure becomes a row."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from common.processes import ending, worker_environment

from .methods import METHODS
from .store import Cell, Store
from .worker import MARK, do


@dataclass(frozen=True)
class Settings:
    """What decides the figures; a cell measured under other settings is measured again.

    Attributes:
        repeats: rounds of the timing.
        budget: seconds of timing for a (problem, steps), all methods together; one round is always taken.
        threads: of torch; 0 for its own choice.
        seed: of the problems.
        check: in which precision answers are compared, "float64" or "float32".
        memory_limit: bytes a process may take; 0 for no limit.
        timeout: seconds until a process is given up.
        isolate: a process for each measurement. Without, all are made in this one: quick, but resident
            memory stays unknown, limits do not hold, and a crash ends the run.
    """

    repeats: int
    budget: float
    threads: int
    seed: int
    check: str
    memory_limit: int
    timeout: float
    isolate: bool


class Driver:
    """Measures cells.

    Args:
        settings: see there.
        store: where cells are kept, and found again.
        tell: is told what is going on.
        load: of the machine now, kept beside the times; None if unknown.
    """

    def __init__(
        self, settings: Settings, store: Store, tell: Callable[[str], None], load: float | None = None
    ) -> None:
        self._settings = settings
        self._store = store
        self._tell = tell
        self._load = load

    def group(self, problem: str, steps: int, methods: list[str], *, timed: bool = True) -> list[Cell]:
        """All methods at a problem and number of steps: memory one by one, then time in turns if `timed`."""
        cells = [self._cell(problem, steps, method) for method in methods]
        wanted = [cell for cell in cells if cell.ok]
        if timed and any(not cell.seconds for cell in wanted):
            # All of them again: ratios are of medians that were taken side by side.
            self._tell(f"{problem}, T = {steps}: time of {len(wanted)} methods")
            self._time(problem, steps, wanted)
            for cell in wanted:
                self._store.save(cell)
        return cells

    def _cell(self, problem: str, steps: int, method: str) -> Cell:
        known = self._store.load(problem, steps, method)
        if known is not None and known.status != "skipped":  # what was missing may be installed now
            return known
        self._tell(f"{problem}, T = {steps}: memory of {method}")
        cell = Cell(problem, steps, method, status="failed")
        try:
            for event in self._events({"kind": "cell", "problem": problem, "steps": steps, "method": method}):
                kind = event.pop("event")
                if kind == "cell":
                    cell = Cell(problem, steps, method, **event)
                else:
                    cell.status, cell.reason = kind, event["reason"]
        except ProcessError as error:
            cell.status, cell.reason = "failed", str(error)
        self._store.save(cell)
        return cell

    def _time(self, problem: str, steps: int, cells: list[Cell]) -> None:
        """Fill in the seconds; after a process died, again without the method it died of."""
        left = {cell.method: cell for cell in cells}
        while left:
            for cell in left.values():
                cell.seconds, cell.load = [], self._load
            current = next(iter(left))
            job = {"kind": "times", "problem": problem, "steps": steps, "methods": list(left)}
            try:
                for event in self._events(job):
                    current = event["method"]
                    if event["event"] == "time":
                        left[current].seconds.append(event["seconds"])
                    elif event["event"] == "failed":
                        left[current].status, left[current].reason = "failed", event["reason"]
            except ProcessError as error:
                left[current].status, left[current].reason = "failed", f"while timed: {error}"
                left = {name: cell for name, cell in left.items() if cell.ok}
            else:
                return

    def _events(self, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Do a job and yield what it tells.

        Raises:
            ProcessError: it ended badly, or took too long.
        """
        job = {
            **job,
            "repeats": self._settings.repeats,
            "budget": self._settings.budget,
            "threads": self._settings.threads,
            "seed": self._settings.seed,
            "check": self._settings.check,
            "memory_limit": self._settings.memory_limit,
        }
        if not self._settings.isolate:
            yield from do(job, alone=False)
            return
        command = [sys.executable, "-m", "hypergradient.worker", json.dumps(job)]
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env=worker_environment(),
            )
            try:
                yield from _lines(process, time.monotonic() + self._settings.timeout)
                code = process.wait()
            except TimeoutError:
                raise ProcessError(f"took longer than {self._settings.timeout:g} s") from None
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                if process.stdout is not None:
                    process.stdout.close()
            if code:
                errors.seek(0)
                last = (errors.read().strip().splitlines() or [""])[-1]
                raise ProcessError(f"{ending(code)}: {last}"[:300] if last else ending(code))


class ProcessError(Exception):
    """A worker did not end well; the message says how."""


def _lines(process: subprocess.Popen[str], until: float) -> Iterator[dict[str, Any]]:
    """The events on a process's standard output, until it is closed."""
    stream = process.stdout
    if stream is None:
        raise ValueError("the process has no pipe")
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise TimeoutError from None
        if line is None:
            return
        if MARK in line:
            yield json.loads(line.rpartition(MARK)[2])


def all_methods() -> list[str]:
    """The names of all methods, in the order of the table."""
    return list(METHODS)
