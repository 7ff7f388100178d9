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
        list[Path],
        typer.Argument(
            help="Image files, folders of them, or patterns such as 'in/*.png'.", metavar="IMAGES..."
        ),
    ],
    out: opt.Out = Path("runs/predict"),
    role: opt.Role = None,
    threshold: Annotated[
        float,
        typer.Option("--threshold", min=0.0, max=1.0, help="Probability above which a pixel is target."),
    ] = 0.5,
    min_area: Annotated[
        int, typer.Option("--min-area", min=1, help="Leave out targets of fewer pixels.")
    ] = 1,
    tile: opt.Tile = 1024,
    overlap: opt.Overlap = 64,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Images or tiles of one size that go together.")
    ] = 1,
    tta: opt.Flips = False,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Also look into folders of folders.")
    ] = False,
    save: Annotated[
        str, typer.Option("--save", help="Pictures to write: masks, overlays, probabilities (16 bit).")
    ] = "masks,overlays",
    tables: Annotated[
        str, typer.Option("--tables", help="Tables of targets to write: csv, json, coco.")
    ] = "csv,json,coco",
    skip_existing: Annotated[
        bool,
        typer.Option("--skip-existing", help="Go on where an earlier call with the same --out was stopped."),
    ] = False,
    backbone: opt.SameBackbone = "",
    vfm: opt.VfmElsewhere = "",
    device: opt.Device = "auto",
) -> None:
    """Write masks/, overlays/ and tables of targets for images of any size.

    In targets.csv (image, x, y, area, score), x and y are the centre of a target in pixels, area its pixels,
    score its highest probability; targets.json adds boxes, targets.coco.json masks. provenance.json says how
    to make them again. An image that cannot be read is named and left out, and the exit code is then 1.
    """
    from .._provenance import provenance, typed_command
    from ..engine import (
        PredictOptions,
        Tiling,
        choose_device,
        choose_role,
        find_images,
        load_detector,
        predict_images,
        tune_allocator,
    )
    from ..engine.progress import Bars
    from ..engine.runtime import deterministic

    console = Console()
    tune_allocator()
    where = choose_device(device)
    role = choose_role(run, role)
    options = PredictOptions(
        role=role,
        threshold=threshold,
        min_area=min_area,
        tiling=Tiling(tile, overlap, batch_size, tta),
        pictures=_names(save),
        tables=_names(tables),
        skip_existing=skip_existing,
    )
    paths = find_images(images, recursive)
    detector = load_detector(run, role=role, device=where, vfm=vfm or None, backbone=backbone or None)
    about = {"checkpoint": str(run), "weights": {role: detector.fingerprint()}, "device": str(where)}
    with Bars(console, "detecting", len(paths)) as bars, deterministic():
        done = predict_images(
            detector,
            paths,
            out,
            options,
            device=where,
            progress=lambda count, total: bars.set(count),
            about={**about, **provenance(typed_command(), where)},
        )
    kept = f" ({done.skipped} were there already)" if done.skipped else ""
    console.print(
        f"{done.num_targets} targets in {len(done.answers)} images{kept}; written to {escape(str(out))}"
    )
    for _, error in done.failures:
        console.print(f"[red]left out[/red] {escape(str(error))}", highlight=False)
    if done.failures:
        raise typer.Exit(1)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
