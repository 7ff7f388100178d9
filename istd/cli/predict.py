"""`istd predict`: a trained detector on one's own images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from . import options as opt


def predict(
    run: opt.Run,
    images: Annotated[
        list[Path], typer.Argument(help="Image files, or folders of them.", metavar="IMAGES...")
    ],
    out: opt.Out = Path("runs/predict"),
    role: opt.Role = "student",
    threshold: Annotated[
        float,
        typer.Option("--threshold", min=0.0, max=1.0, help="Probability above which a pixel is target."),
    ] = 0.5,
    backbone: Annotated[str, typer.Option("--backbone", help="Refuse a checkpoint of another network.")] = "",
    vfm: Annotated[
        str, typer.Option("--vfm", help="Where the teacher's frozen model lies, if elsewhere now.")
    ] = "",
    device: opt.Device = "auto",
) -> None:
    """Write masks/, overlays/ and targets.csv (image, x, y, area, score) for a folder of images.

    x and y are the centre of a target in pixels, area its pixels, score its highest probability.
    """
    from ..engine import choose_device, find_images, load_detector, predict_images, tune_allocator
    from ..engine.progress import Bars

    console = Console()
    tune_allocator()
    where = choose_device(device)
    paths = find_images(images)
    detector = load_detector(run, role=role, device=where, vfm=vfm or None, backbone=backbone or None)
    with Bars(console, "detecting", len(paths)) as bars:
        done = predict_images(
            detector,
            paths,
            out,
            role=role,
            threshold=threshold,
            device=where,
            progress=lambda count, total: bars.advance(f"detecting {count}/{total}"),
        )
    console.print(f"{len(done.targets)} targets in {done.images} images; written to {escape(str(out))}")
    for _, error in done.failures:
        console.print(f"[red]left out[/red] {escape(str(error))}", highlight=False)
    if done.failures:
        raise typer.Exit(1)
