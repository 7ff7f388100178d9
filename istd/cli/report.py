"""`istd report`: one page that compares runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders that `istd train` wrote.", metavar="RUN...")
    ],
    out: Annotated[Path, typer.Option("--out", help="The HTML file to write.")] = Path("runs/report.html"),
    title: Annotated[str, typer.Option("--title", help="Heading of the page.")] = "istd report",
) -> None:
    """Write one self-contained HTML page: figures with their protocol, training curves, labels and pictures.

    The page opens offline, holds no script and loads nothing. Runs whose splits or metric conventions differ
    are said to differ.
    """
    from .._provenance import typed_command
    from ..report import write_report

    write_report(runs, out, title, command=typed_command())
    Console().print(f"written: {escape(str(out))}", highlight=False, soft_wrap=True)
