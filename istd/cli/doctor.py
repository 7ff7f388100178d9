"""`istd doctor`: what is wrong with a dataset."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import options as opt

if TYPE_CHECKING:
    from ..doctor import Report

_STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}


class FailOn(StrEnum):
    """From which severity on the exit code is 1."""

    error = "error"
    warning = "warning"
    never = "never"


def doctor(
    path: Annotated[Path, typer.Argument(help="Folder of a dataset, or a packed .h5 file.", metavar="PATH")],
    layout: opt.Layout = "",
    mask_threshold: opt.MaskThreshold = None,
    scenes: Annotated[
        bool,
        typer.Option(
            "--scenes/--no-scenes", help="Look for the same scene in two splits (the slowest check)."
        ),
    ] = True,
    fail_on: Annotated[
        FailOn, typer.Option("--fail-on", help="Exit code 1 from this severity on.")
    ] = FailOn.warning,
    all_names: Annotated[
        bool, typer.Option("--all", help="Name every image, not only the first few of each finding.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Look over a dataset: files, sizes, bit depth, channels, splits, duplicates, masks and points.

    Exit code: 0 if nothing is wrong, 1 if there are errors or warnings (see --fail-on), 2 if there is nothing
    to look at.

    Examples:

        istd doctor data/sirst

        istd doctor data/mine --no-scenes --json > findings.json
    """
    from ..doctor import diagnose
    from ..engine.progress import Bars

    console = Console(stderr=as_json)
    with Bars(console, "looking", 1) as bars:
        report = diagnose(
            path,
            layout=layout or None,
            mask_threshold=mask_threshold,
            scenes=scenes,
            progress=lambda done, total: bars("images", done, total),
        )
    if as_json:
        print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
    else:
        _show(console, report, all_names)
        if layout or mask_threshold is not None:
            packing = opt.pack_command(path, layout, mask_threshold)
            console.print(f"to train with these options: {escape(packing)}", soft_wrap=True, highlight=False)
    failing = report.count("error") + (report.count("warning") if fail_on == FailOn.warning else 0)
    if failing and fail_on != FailOn.never:
        raise typer.Exit(1)


def _show(console: Console, report: Report, all_names: bool) -> None:
    counts = ", ".join(f"{count} {split}" for split, count in report.splits.items())
    console.print(f"[bold]{escape(str(report.path))}[/bold]  layout {report.layout}: {counts or 'no splits'}")
    if report.findings:
        table = Table(show_lines=True)
        for column in ("severity", "check", "what", "where"):
            table.add_column(column, overflow="fold")
        for finding in report.findings:
            what = escape(finding.message)
            if finding.mend:
                what += f"\n[dim]mend: {escape(finding.mend)}[/dim]"
            style = _STYLES[finding.severity]
            where = _where(finding.names, finding.details, all_names)
            table.add_row(f"[{style}]{finding.severity}[/{style}]", finding.check, what, escape(where))
        console.print(table)
    errors, warned = report.count("error"), report.count("warning")
    console.print("nothing is wrong" if not errors + warned else f"errors: {errors}, warnings: {warned}")


def _where(names: tuple[str, ...], details: tuple[str, ...], all_names: bool) -> str:
    shown = len(names) if all_names else 5
    lines = [
        name if not details else detail if name in detail else f"{name}: {detail}"
        for name, detail in zip(names[:shown], details[:shown] or [""] * shown, strict=False)
    ]
    if len(names) > shown:
        lines.append(f"… and {len(names) - shown} more")
    return "\n".join(lines)
