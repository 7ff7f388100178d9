"""The rows as a table on the screen, as JSON and as Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.machine import load_warning
from rich.console import Console
from rich.table import Table

from istd._files import write_text

from .rows import Row
from .targets import Target

_COLUMNS = (
    "method", "exact", "ms", "± ms", "rounds", "tensors MB", "resident MB", "time ÷", "tensors ÷", "growth",
    "error", "cosine", "note",
)  # fmt: skip

LEGEND = """\
ms: median seconds of one hypergradient, in turns with the others; ±: half of the distance between quartiles.
tensors MB: peak live tensor storage made during the hypergradient (batches and live parameters not counted).
resident MB: peak resident memory of a process of its own, Python and torch included.
time ÷, tensors ÷: over the fastest and over the leanest exact method of another library in the same table
(over plain autograd where there is none). growth: tensors MB over those at the smallest T.
error, cosine: of the hypergradient against the first exact method of the table, in the check's precision."""


def cells_of(row: Row) -> tuple[str, ...]:
    """The columns of a row; `LEGEND` says what they mean."""

    def show(value: float | None, form: str, factor: float = 1.0) -> str:
        return "" if value is None else format(value * factor, form)

    if row.status != "ok":
        return (row.method, "yes" if row.exact else "no", *[""] * 10, f"{row.status}: {row.reason}")
    return (
        row.method,
        "yes" if row.exact else "no",
        show(row.seconds, ".1f", 1e3),
        show(row.seconds_spread, ".1f", 1e3),
        str(row.rounds or ""),
        show(row.tensor_mb, ".2f"),
        show(row.resident_mb, ".0f"),
        show(row.time_ratio, ".2f"),
        show(row.tensor_ratio, ".2f"),
        show(row.growth, ".2f"),
        "reference" if row.method == row.reference else show(row.error, ".1e"),
        show(row.cosine, ".4f"),
        row.note,
    )


def show_group(console: Console, rows: list[Row]) -> None:
    """Print the rows of one problem and number of steps."""
    table = Table(title=f"{rows[0].problem}, T = {rows[0].steps}", title_justify="left")
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in ("method", "exact", "note") else "right")
    for row in rows:
        table.add_row(*cells_of(row), style=None if row.status == "ok" else "dim")
    console.print(table)


def show_targets(console: Console, targets: list[Target]) -> None:
    """Print the targets."""
    if not targets:
        return
    table = Table(title="Targets", title_justify="left")
    for name in ("problem", "what", "found", "bound", "met"):
        table.add_column(name, justify="right" if name == "found" else "left")
    for one in targets:
        table.add_row(one.problem, one.what, f"{one.found:.2f}", one.bound, "yes" if one.met else "no")
    console.print(table)


def write_json(
    path: Path, rows: list[Row], targets: list[Target], settings: dict[str, Any], now: dict[str, Any]
) -> None:
    """Everything as data."""
    content = {
        **now,
        "unreliable": load_warning(row.load for row in rows if row.rounds),
        "settings": settings,
        "rows": [row.as_dict() for row in rows],
        "targets": [vars(one) for one in targets],
    }
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_markdown(
    path: Path, rows: list[Row], targets: list[Target], settings: dict[str, Any], now: dict[str, Any]
) -> None:
    """Everything as a page."""
    lines = ["# Hypergradient benchmark", ""]
    machine, versions = now["machine"], now["versions"]
    lines += [f"torch {versions['torch']}, Python {versions['python']}, {machine['processor']},"]
    lines += [f"{machine['cores']} cores; commit {now['code']['commit'] or 'unknown'}; `{now['command']}`; "]
    lines += ["settings: " + ", ".join(f"{key} {value}" for key, value in settings.items()) + ".", ""]
    warning = load_warning(row.load for row in rows if row.rounds)
    if warning:
        lines += [f"**{warning}**", ""]
    lines += [LEGEND.replace("\n", "  \n"), ""]
    if targets:
        lines += [
            "## Targets",
            "",
            "| problem | what | found | bound | met |",
            "| --- | --- | ---: | --- | --- |",
        ]
        lines += [
            f"| {one.problem} | {one.what} | {one.found:.2f} | {one.bound} | {'yes' if one.met else 'no'} |"
            for one in targets
        ]
        lines.append("")
    for problem, steps in dict.fromkeys((row.problem, row.steps) for row in rows):
        lines += [f"## {problem}, T = {steps}", ""]
        lines += ["| " + " | ".join(_COLUMNS) + " |"]
        lines += ["| --- | --- |" + " ---: |" * (len(_COLUMNS) - 3) + " --- |"]
        for row in rows:
            if (row.problem, row.steps) == (problem, steps):
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells_of(row)) + " |")
        lines.append("")
    write_text(path, "\n".join(lines))
