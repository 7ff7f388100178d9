"""The whole: which cells are left to run, running them, and the report after each."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.machine import load, load_warning
from rich.console import Console
from rich.markup import escape

from istd._provenance import code_version
from istd.engine import RunFolder

from .cells import Base, Cell
from .plots import draw_all
from .pool import Limits, Pool, epochs_done
from .progress import Bars
from .report import make_report, print_report, write_report
from .store import Result, Store


class Bench:
    """One call of the benchmark.

    Args:
        store: of the cells.
        out: where the report goes.
        base: of the cells.
        limits: for the processes.
        command: this call, for the report.
        cell_command: of one cell alone.
        console: where to print.
    """

    def __init__(
        self,
        *,
        store: Store,
        out: Path,
        base: Base,
        limits: Limits,
        command: str,
        cell_command: Callable[[Cell], str],
        console: Console,
    ) -> None:
        self._store = store
        self._out = out
        self._base = base
        self._limits = limits
        self._command = command
        self._cell_command = cell_command
        self._console = console

    def run(
        self, cells: Sequence[Cell], *, only: Sequence[str] = ("*",), limit: int = 0, fresh: bool = False
    ) -> None:
        """Make the cells that have no result yet; after each one the report is written again.

        Args:
            cells: the plan.
            only: shell patterns of names; others are not run.
            limit: run at most so many; 0 is no limit.
            fresh: forget what is there of those cells first.

        Raises:
            KeyboardInterrupt: stopped; what was done is kept.
            CheckpointError: another benchmark runs in this folder.
        """
        folder = RunFolder(self._out)
        folder.acquire()
        try:
            self._run(cells, only, limit, fresh)
        finally:
            folder.release()

    def _run(self, cells: Sequence[Cell], only: Sequence[str], limit: int, fresh: bool) -> None:
        say = self._console.print
        wanted = [cell for cell in cells if any(fnmatch.fnmatchcase(cell.slug, one) for one in only)]
        if fresh:
            for cell in wanted[: limit or None]:
                self._store.remove(cell)
        left = [cell for cell in wanted if not self._is_done(cell)][: limit or None]
        for cell in left:
            different = self._store.different(cell)
            if different:
                names = ", ".join(different)
                say(f"[yellow]made again, with other {names}: {escape(cell.recipe.label)}[/yellow]")
        done = len(wanted) - len(left)
        say(f"{len(left)} cells to run, {done} done before; {self._limits.jobs} at a time")
        warning = load_warning([load()])
        if warning:
            say(f"[yellow]{warning}[/yellow]")
        begun = {
            cell.slug: epochs_done(self._store.folder(cell))
            for cell in left
            if not self._store.different(cell)
        }
        pool = Pool(self._store, self._limits, self._about)
        try:
            with Bars(self._console, left, begun) as bars:
                for result in pool.run(left, bars):
                    say(_line(result), highlight=False)
                    self._write(cells)
        except KeyboardInterrupt:
            say("[yellow]stopped; the same command goes on[/yellow]")
            self._write(cells)
            raise

    def report(self, cells: Sequence[Cell]) -> bool:
        """Write and print the report; whether every planned cell has a result."""
        results = self._write(cells)
        print_report(make_report(results[0], self._command, results[1]), self._console)
        pictures = draw_all(results[0], self._out)
        names = ["results.json", "results.md", *(path.name for path in pictures), "cells/"]
        self._console.print(f"Written to {self._out}: {', '.join(names)}")
        return all(self._is_done(cell) for cell in cells)

    def _write(self, cells: Sequence[Cell]) -> tuple[list[Result], int]:
        results, left_out = self.results(cells)
        report = make_report(results, self._command, left_out)
        write_report(report, self._out, f"istd_bench, preset {self._base.preset}")
        return results, left_out

    def results(self, cells: Sequence[Cell]) -> tuple[list[Result], int]:
        """A result for every planned cell (pending ones too), then stored ones of the same base.

        Returns:
            The results, and how many stored cells of other settings are left out.
        """
        found = []
        for cell in cells:
            result = self._store.load(cell)
            if result is None:
                result = {
                    "status": "pending",
                    "reason": "not run yet",
                    "label": cell.recipe.label,
                    "slug": cell.slug,
                    "recipe": vars(cell.recipe),
                    "places": [],
                }
            places = {*map(tuple, result["places"]), *cell.places}
            ordered = [*cell.places, *sorted(places - {*cell.places})]
            found.append({**result, "places": [list(place) for place in ordered]})
        others, left_out = self._store.others(self._base, {cell.slug for cell in cells})
        return found + others, left_out

    def _is_done(self, cell: Cell) -> bool:
        return (self._store.load(cell) or {}).get("status") == "ok"

    def _about(self, cell: Cell) -> dict[str, Any]:
        return {"command": self._cell_command(cell), "code": code_version()}


def _line(result: Result) -> str:
    """One line for a cell that is done."""
    label = escape(result["label"])
    if result["status"] != "ok":
        return f"[red]{label}: {result['status']}[/red] {escape(result['reason'])}"
    scores = result["metrics"].get("test", {}).get("student")
    iou = "" if scores is None else f"test IoU {100 * scores['iou']:.1f}  "
    return f"{label}: {iou}[dim]{result['usage_total']['seconds']:.0f} s[/dim]"
