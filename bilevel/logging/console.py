"""Numbers on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

import rich.console


class Console:
    """One line a step, by rich.

    Args:
        names: which numbers to show, in this order; None for all.
        console: the rich console to print on; None for a new one on standard output.
    """

    def __init__(
        self, names: tuple[str, ...] | None = None, console: rich.console.Console | None = None
    ) -> None:
        self._names = names
        self._console = console or rich.console.Console()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Print one line."""
        names = values if self._names is None else [name for name in self._names if name in values]
        parts = [f"[dim]{name}[/dim] {values[name]:.5g}" for name in names]
        self._console.print(f"[bold]step {step}[/bold]  " + "  ".join(parts), highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing is pending."""
