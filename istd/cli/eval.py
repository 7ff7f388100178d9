"""`istd eval`: the metrics of a trained detector on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

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
    from ..data import load_split
    from ..engine import choose_device, evaluate, load_detector, packed, tune_allocator
    from ..errors import CheckpointError
    from ..metrics import MetricConvention

    console = Console()
    tune_allocator()
    where = choose_device(device)
    convention = MetricConvention()
    roles = ["teacher"] if run.is_file() and run.stem == "teacher" else ["student"]
    if run.is_dir() and (run / "checkpoints" / "teacher.safetensors").is_file():
        roles.append("teacher")
    rows: dict[str, dict[str, float]] = {}
    for role in roles:
        detector = load_detector(run, role=role, device=where, vfm=vfm or None, backbone=backbone or None)
        source = data or detector.header["config"]["data"]
        dataset = packed(source)
        if split not in dataset.splits:
            raise CheckpointError(
                "the dataset has no such split", where=source, found=split, expected=", ".join(dataset.splits)
            )
        images = load_split(dataset, split, device=where)
        with console.status(f"evaluating the {role} on {len(images.names)} images"):
            rows[role], _ = evaluate(lambda image, d=detector, r=role: d.logits(image, r), images, convention)  # type: ignore[misc]
    console.print(metrics_table(f"{split} split of {source}, {len(images.names)} images", rows))
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
        console.print(f"written: {out}")
