"""How far the cells are, and how long they will take."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import TaskID

from istd.engine.progress import new_progress

from .cells import Cell


class Bars:
    """A bar over the epochs of all cells, and one for each cell that runs.

    Args:
        console: where to show them.
        cells: all that will be made; what earlier calls did of them (`begun`, epochs by slug) is no work.
    """

    def __init__(self, console: Console, cells: list[Cell], begun: dict[str, int]) -> None:
        self._progress = new_progress(console, bar_width=24, speed_over=1800.0)
        self._cells = {cell.slug: cell for cell in cells}
        self._done = dict(begun)
        total = sum(cell.config["epochs"] for cell in cells)
        self._finished = 0
        self._main = self._progress.add_task(
            "epochs of all cells", total=total, completed=sum(begun.values())
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, cell: Cell, epochs: int) -> None:
        """A running cell has done so many epochs."""
        if cell.slug not in self._tasks:
            self._tasks[cell.slug] = self._progress.add_task(
                f"  {cell.recipe.label}", total=cell.config["epochs"], completed=epochs
            )
        self._progress.update(self._tasks[cell.slug], completed=epochs)
        self._count(cell, epochs)

    def done(self, cell: Cell) -> None:
        """A cell has ended, well or not."""
        if cell.slug in self._tasks:
            self._progress.remove_task(self._tasks.pop(cell.slug))
        self._finished += 1
        self._count(cell, cell.config["epochs"])

    def _count(self, cell: Cell, epochs: int) -> None:
        self._done[cell.slug] = max(epochs, self._done.get(cell.slug, 0))
        self._progress.update(
            self._main,
            completed=sum(self._done.values()),
            description=f"epochs of all cells ({self._finished} of {len(self._cells)} done)",
        )
