"""A progress bar with the time that is left, for long work in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def new_progress(console: Console, *, bar_width: int = 40, speed_over: float = 30.0) -> Progress:
    """Bars with counts, the time taken and the time left, told from the last `speed_over` seconds."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        speed_estimate_period=speed_over,
    )


class Bars:
    """One bar for the whole run and one for what is being done within it.

    Calling it with (title, done, total) moves the inner bar and raises `KeyboardInterrupt` once
    `should_stop()` is true, so that long phases can be left.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        total: int,
        done: int = 0,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.console = console
        self.should_stop = should_stop
        self._progress = new_progress(console)
        self._main = self._progress.add_task(title, total=total, completed=done)
        self._inner: TaskID | None = None
        self._inner_title = ""

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, title: str, done: int, total: int) -> None:
        """Show how much of `title` is done; raises `KeyboardInterrupt` if asked to stop."""
        if self.should_stop():
            raise KeyboardInterrupt
        if self._inner is None or self._inner_title != title:
            if self._inner is not None:
                self._progress.remove_task(self._inner)
            self._inner = self._progress.add_task(f"  {title}", total=total)
            self._inner_title = title
        self._progress.update(self._inner, completed=done, total=total)
        if done >= total:
            self._progress.remove_task(self._inner)
            self._inner = None

    def advance(self, description: str) -> None:
        """Move the main bar by one step."""
        self._progress.update(self._main, advance=1, description=description)

    def set(self, done: int) -> None:
        """Move the main bar to `done` steps."""
        self._progress.update(self._main, completed=done)


def epoch_line(record: Mapping[str, Any], epochs: int, against: str = "masks") -> str:
    """What is printed of an epoch's line in the log; `against` is what the validation score compares with."""
    val = "val IoU" if against == "masks" else f"val IoU with {against}"
    shown = {"val_student_iou": val, "label_iou_train": "label IoU", "pool_fraction": "pool"}
    extras = "  ".join(
        f"{name} {record[key]:.3f}" for key, name in shown.items() if record.get(key) is not None
    )
    return (
        f"epoch {record['epoch'] + 1:>3}/{epochs}  loss {record['loss']:.4f}  {extras}"
        f"  [dim]{record['seconds']:.0f} s[/dim]"
    )
