"""`istd annotate`: click one point per target, in a page of one's own browser."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import warnings
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from . import options as opt

if TYPE_CHECKING:
    from ..annotate import AnnotationSession


def annotate(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder of a dataset; at the least images/ with your images.", metavar="FOLDER"),
    ],
    split: Annotated[
        str, typer.Option("--split", help="Which images: train, val, test or all.", rich_help_panel="What")
    ] = "all",
    points: Annotated[
        Path | None,
        typer.Option(
            "--points",
            help="The file to keep points in, .csv or .json; by default points.csv in FOLDER (or the "
            "points.json that is there), where training finds it.",
            rich_help_panel="What",
        ),
    ] = None,
    layout: opt.Layout = "",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0: any free one.", rich_help_panel="Page")
    ] = 8765,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in your browser.", rich_help_panel="Page")
    ] = True,
) -> None:
    """Open a page to click one point per target; every change is saved at once.

    The page is served to this machine only. Ctrl-C ends it. Press H in the page for all keys.
    """
    from ..annotate import AnnotationServer, AnnotationSession
    from ..data import DataWarning, open_dataset

    console = Console()
    with warnings.catch_warnings():
        # How images without split files are split matters in training, not here.
        warnings.simplefilter("ignore" if split == "all" else "default", DataWarning)
        dataset = open_dataset(folder, layout=layout or None)
    session = AnnotationSession(dataset, split, points)
    with AnnotationServer(session, port) as server:
        counts = session.summary()
        console.print(
            f"{counts['annotated']} of {counts['images']} images annotated; points go to "
            f"{escape(str(session.file.path))}",
            highlight=False,
            soft_wrap=True,
        )
        console.print(f"[bold]{escape(server.url)}[/bold]", highlight=False, soft_wrap=True)
        console.print("[dim]Ctrl-C ends; every change is saved at once[/dim]")
        before = {one: signal.signal(one, _stop) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            if open_page and _has_screen():
                webbrowser.open(server.url)
            server.serve_forever()
        except KeyboardInterrupt:
            session.close()
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
    _summarise(console, session, layout)


def _has_screen() -> bool:
    # Without one, `webbrowser` would start a text browser in this very terminal.
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    return not sys.platform.startswith("linux") or any(os.environ.get(name) for name in screens)


def _stop(*_: Any) -> None:
    """Ctrl-C, also in the background where shells have it ignored; and being told to end."""
    raise KeyboardInterrupt


def _summarise(console: Console, session: AnnotationSession, layout: str) -> None:
    counts = session.summary()
    left = counts["images"] - counts["annotated"] - counts["unreadable"]
    console.print(
        f"\n{counts['annotated']} of {counts['images']} images annotated (points: {counts['points']}, "
        f"images without target: {counts['without_target']}, unreadable: {counts['unreadable']})",
        highlight=False,
    )
    if not session.file.path.exists():
        console.print("no point was set, so nothing was written", highlight=False)
        return
    console.print(f"written: {escape(str(session.file.path))}", highlight=False, soft_wrap=True)
    if not session.read_by_training:
        note = "training does not read this file: put it into the folder as points.csv or points.json"
    elif left > 0:
        note = f"training takes the {left} images still to do as images without target"
    else:
        note = ""
    if note:
        console.print(f"[yellow]note[/yellow] {note}", highlight=False, soft_wrap=True)
    if session.read_by_training:
        root = session.dataset.root
        training = shlex.join(["istd", "train", "--data", str(root)])
        command = opt.pack_command(root, layout) if layout else training
        console.print(f"now train: {escape(command)}", highlight=False, soft_wrap=True)
