"""`istd synth`: infrared images with known targets, as files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape


class PointKind(StrEnum):
    """Where on its target a point lies."""

    centroid = "centroid"
    coarse = "coarse"


def synth(
    out: Annotated[Path, typer.Argument(help="Folder to make.", metavar="OUT")],
    layout: Annotated[
        str,
        typer.Option(
            "--layout", help="folder, sirst-v1, sirst-v2, dnanet, sirst3 or pal; see docs/istd/data.md."
        ),
    ] = "folder",
    train: Annotated[int, typer.Option("--train", min=0, help="Training images.")] = 64,
    val: Annotated[int, typer.Option("--val", min=0, help="Validation images.")] = 16,
    test: Annotated[int, typer.Option("--test", min=0, help="Test images.")] = 16,
    height: Annotated[int, typer.Option("--height", min=32, help="In pixels.")] = 256,
    width: Annotated[int, typer.Option("--width", min=32, help="In pixels.")] = 256,
    bits: Annotated[int, typer.Option("--bits", help="8, or 16 for raw 14-bit counts.")] = 8,
    points: Annotated[
        PointKind, typer.Option("--points", help="A point at each centroid, or somewhere near it.")
    ] = PointKind.centroid,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed: the same images, bit for bit.")] = 0,
) -> None:
    """Generate a dataset of infrared scenes with exact masks and one point per target.

    The folder appears whole or not at all.

    Examples:

        istd synth data/toy

        istd synth data/toy16 --layout dnanet --bits 16 --height 480 --width 640 --points coarse --seed 7
    """
    from ..data import SyntheticDataset, write_synthetic
    from ..engine.progress import Bars

    console = Console()
    dataset = SyntheticDataset(train, val, test, (height, width), seed)
    with Bars(console, "generating", len(dataset)) as bars:
        write_synthetic(
            dataset,
            out,
            layout=layout,
            bits=bits,  # type: ignore[arg-type]  # checked there
            kind=points.value,
            progress=lambda done, total: bars.advance(f"generating {done}/{total}"),
        )
    console.print(
        f"{len(dataset)} images ({train} train, {val} val, {test} test), {height} × {width}, {bits} bit, "
        f"layout {layout}, written to {escape(str(out))}"
    )
