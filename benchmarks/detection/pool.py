"""Has cells made, several processes at a time; one that fails becomes a result that says so."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from common.interrupts import Interrupts
from common.processes import ending, worker_environment

from istd.engine import RunFolder, read_lines

from .cells import Cell
from .progress import Bars
from .store import CellFolder, Result, Store, read_json

_GRACE = 300.0  # seconds until a process that was asked to stop is ended: a training step may take long


@dataclass(frozen=True)
class Limits:
    """What cells may take.

    Attributes:
        jobs: processes at a time.
        threads: of each.
        timeout: seconds a cell may take in this call; 0 for no limit.
        memory: bytes a process may take; 0 for no limit.
    """

    jobs: int = 1
    threads: int = 1
    timeout: float = 0.0
    memory: int = 0


@dataclass
class _Running:
    cell: Cell
    folder: CellFolder
    process: subprocess.Popen[bytes]
    began: float
    late: bool = False


class Pool:
    """Makes cells.

    Args:
        store: where they are kept.
        limits: see there.
        about: kept with every result: the command, the code's version.
    """

    def __init__(self, store: Store, limits: Limits, about: Callable[[Cell], dict[str, Any]]) -> None:
        self._store = store
        self._limits = limits
        self._about = about
        self._running: list[_Running] = []

    def run(self, cells: Sequence[Cell], bars: Bars) -> Iterator[Result]:
        """Make all `cells`; yield the result of each when it is done.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM. All processes were asked to stop, have saved, and are gone.
        """
        waiting = list(reversed(cells))
        with Interrupts() as interrupts:
            try:
                while waiting or self._running:
                    interrupts.check()
                    while waiting and len(self._running) < self._limits.jobs:
                        self._running.append(self._start(waiting.pop()))
                    time.sleep(0.2)
                    for one in list(self._running):
                        if one.process.poll() is not None:
                            self._running.remove(one)
                            bars.done(one.cell)
                            yield self._finish(one)
                        else:
                            bars.show(one.cell, epochs_done(one.folder))
                            self._check_time(one)
            finally:
                self._stop_all(interrupts)

    def _start(self, cell: Cell) -> _Running:
        threads = self._limits.threads
        job = {
            "recipe": vars(cell.recipe),
            "label": cell.recipe.label,
            "slug": cell.slug,
            "places": [list(place) for place in cell.places],
            "threads": threads,
            "memory_limit": self._limits.memory,
            **self._about(cell),
        }
        folder = self._store.prepare(cell, job)
        environment = worker_environment()
        environment |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        # Threads that spin while they wait take the cores of the other cells.
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        with folder.output.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "detection.worker", str(folder.root)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                # Ctrl-C goes to the driver alone: a second signal would cut off a worker that is saving.
                start_new_session=True,
            )
        return _Running(cell, folder, process, time.monotonic())

    def _check_time(self, one: _Running) -> None:
        taken = time.monotonic() - one.began
        if self._limits.timeout and taken > self._limits.timeout and not one.late:
            one.late = True
            one.process.terminate()  # it saves: a later call with more time goes on
        if one.late and taken > self._limits.timeout + _GRACE:
            one.process.kill()

    def _finish(self, one: _Running) -> Result:
        code, result = one.process.returncode, read_json(one.folder.result)
        if result is not None:
            return result
        reason = f"took longer than {self._limits.timeout:g} s" if one.late else ending(code)
        if not one.late:
            lines = one.folder.output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            reason += f": {lines[-1].strip()}"[:300] if lines else ""
        job = read_json(one.folder.job) or {}
        result = {"status": "failed", "reason": reason, **job}
        self._store.save(one.cell, result)
        return result

    def _stop_all(self, interrupts: Interrupts) -> None:
        """Ask every process to save and stop, and wait for it; a further Ctrl-C ends them at once."""
        for one in self._running:
            one.process.terminate()
        until, so_far = time.monotonic() + _GRACE, interrupts.count
        while any(one.process.poll() is None for one in self._running):
            if time.monotonic() > until or interrupts.count > so_far:
                for one in self._running:
                    one.process.kill()
            time.sleep(0.1)
        self._running = []


def epochs_done(folder: CellFolder) -> int:
    """Epochs that the run in a folder has finished."""
    return sum(1 for _ in read_lines(RunFolder(folder.run).log))


def default_jobs(threads: int, on_gpu: bool) -> int:
    """One process a core, or one in all where they share a GPU."""
    return 1 if on_gpu else max(1, len(os.sched_getaffinity(0)) // threads)
