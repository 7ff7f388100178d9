"""`istd eval`: the metrics of a trained detector on a split."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from . import options as opt
from .tables import metrics_table


def evaluate_run(
    run: opt.Run,
    data: opt.Data = "",
    split: Annotated[
        str, typer.Option("--split", help="Which images: test, val or train.", rich_help_panel="What")
    ] = "test",
    backbone: Annotated[
        str,
        typer.Option("--backbone", help="Refuse a checkpoint of another network.", rich_help_panel="What"),
    ] = "",
    vfm: Annotated[
        str,
        typer.Option(
            "--vfm", help="Where the teacher's frozen model lies, if elsewhere now.", rich_help_panel="What"
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Also write the figures to this JSON file.", rich_help_panel="Where"),
    ] = None,
    device: opt.Device = "auto",
) -> None:
    """Evaluate the student, and the teacher where the run has one, against the masks of a split."""
    from .._files import write_json
    from ..data import ImageSet, load_split
    from ..engine import choose_device, evaluate, load_detector, packed, tune_allocator
    from ..engine.progress import Bars
    from ..errors import ModelError
    from ..metrics import MetricConvention

    console = Console()
    tune_allocator()
    where = choose_device(device)
    convention = MetricConvention()
    roles = ["teacher"] if run.is_file() and run.stem == "teacher" else ["student"]
    if run.is_dir() and (run / "checkpoints" / "teacher.safetensors").is_file():
        roles.append("teacher")
    rows: dict[str, dict[str, float]] = {}
    failed = False
    images: ImageSet | None = None
    for role in roles:
        try:
            detector = load_detector(run, role=role, device=where, vfm=vfm or None, backbone=backbone or None)
        except ModelError as error:
            if not rows:
                raise
            # The student's figures are there already; they are shown before the command fails.
            console.print(f"[red]the {role} is left out[/red] {escape(str(error))}", highlight=False)
            failed = True
            continue
        if images is None:
            source = data or detector.header["config"]["data"]
            dataset = packed(source)
            images = load_split(dataset, split, device=where, require_points=False)
        logits = partial(detector.logits, role=role)
        with Bars(console, f"evaluating the {role}", len(images)) as bars:
            rows[role], _ = evaluate(
                logits, images, convention, lambda done, total: bars.advance(f"{done}/{total}")
            )
    assert images is not None
    console.print(metrics_table(f"{split} split of {source}, {len(images)} images", rows))
    if out is not None:
        write_json(
            out,
            {
                "metrics": {split: rows},
                "convention": convention.to_dict(),
                "split_hash": dataset.split_hash(),
                "checkpoint": str(run),
                "data": source,
            },
        )
        console.print(f"written: {escape(str(out))}")
    if failed:
        raise typer.Exit(1)
