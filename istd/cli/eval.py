"""`istd eval`: the metrics of a trained detector on a split."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from . import options as opt
from .tables import groups_table, metrics_table

if TYPE_CHECKING:
    from ..engine.examination import Examination

_WHAT, _METRICS = "What", "Metrics"
_OTHER_SPLITS = (
    "is not split as it was when these weights were trained: images came or went. Some that are evaluated "
    "now may have been trained on, or chosen by. Split files (train.txt, val.txt, test.txt) keep images "
    "where they are."
)


def evaluate_run(
    run: opt.Run,
    data: opt.Data = "",
    split: Annotated[
        str, typer.Option("--split", help="Which images: test, val or train.", rich_help_panel=_WHAT)
    ] = "test",
    backbone: opt.SameBackbone = "",
    vfm: opt.VfmElsewhere = "",
    convention: Annotated[
        str,
        typer.Option(
            help="default, dnanet, nearest, hungarian or overlap; see the documentation of the metrics.",
            rich_help_panel=_METRICS,
        ),
    ] = "default",
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability above which a pixel is target. [0.5]", rich_help_panel=_METRICS),
    ] = None,
    distance: Annotated[
        float | None, typer.Option(help="Of centroids, in pixels, exclusive. [3]", rich_help_panel=_METRICS)
    ] = None,
    connectivity: Annotated[
        int | None, typer.Option(help="Of targets, 4 or 8. [8]", rich_help_panel=_METRICS)
    ] = None,
    empty_niou: Annotated[
        str | None,
        typer.Option(
            help="An image without truth and prediction: zero, one, skip.", rich_help_panel=_METRICS
        ),
    ] = None,
    tile: opt.Tile = 0,
    overlap: opt.Overlap = 64,
    tta: opt.Flips = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="A folder for curves, tables and the worst cases; or a .json file for the figures alone.",
            rich_help_panel="Where",
        ),
    ] = None,
    device: opt.Device = "auto",
) -> None:
    """Evaluate the student, and the teacher where the run has one, against the masks of a split.

    One pass gives metrics, PR, ROC and Pd-Fa curves, a line per image, the worst cases, and metrics by target
    group (salient, filamentary, faint, camouflaged).
    """
    from .._provenance import provenance, typed_command
    from ..data import load_split
    from ..engine import (
        RunFolder,
        Tiling,
        as_in_run,
        choose_device,
        choose_role,
        load_detector,
        packed,
        tune_allocator,
    )
    from ..engine.examination import examine
    from ..engine.progress import Bars
    from ..engine.runtime import deterministic
    from ..errors import CheckpointError, ModelError
    from ..metrics import named_convention

    console = Console()
    tune_allocator()
    where = choose_device(device)
    rule = named_convention(
        convention,
        threshold=threshold,
        distance=distance,
        connectivity=connectivity,
        empty_niou=empty_niou,
    )
    found: dict[str, Examination] = {}
    weights: dict[str, str] = {}
    failed, images, dataset, source = False, None, None, data
    roles = [choose_role(run)]
    if run.is_dir() and RunFolder(run).teacher.is_file():
        roles.append("teacher")
    for role in roles:
        try:
            detector = load_detector(run, role=role, device=where, vfm=vfm or None, backbone=backbone or None)
        except (CheckpointError, ModelError) as error:
            if not found:
                raise
            # The student's figures are there already; they are shown before the command fails.
            console.print(f"[red]the {role} is left out[/red] {escape(str(error))}", highlight=False)
            failed = True
            continue
        if images is None:
            source = data or _data_of(run, detector.header)
            dataset = as_in_run(packed(source), detector.header)
            if not data and detector.header.get("split_hash") not in (None, dataset.split_hash()):
                console.print(f"[yellow]note[/yellow] {escape(source)} {_OTHER_SPLITS}", highlight=False)
            images = load_split(dataset, split, require_points=False)
        weights[role], seed = detector.fingerprint(), detector.header["config"].get("seed")
        with Bars(console, f"evaluating the {role}", len(images)) as bars, deterministic():
            found[role] = examine(
                partial(detector.logits, role=role),
                images,
                rule,
                tiling=Tiling(tile, overlap, flips=tta, stride=detector.stride),
                progress=lambda done, total: bars.set(done),
            )
    assert images is not None
    assert dataset is not None
    title = f"{split} split of {source}, {len(images)} images"
    console.print(metrics_table(title, {role: one.metrics for role, one in found.items()}))
    for role, one in found.items():
        console.print(groups_table(f"{role}, by target group", one.groups))
    if out is not None:
        about = {
            "convention": rule.to_dict(),
            "split_hash": dataset.split_hash(),
            "data_hash": dataset.content_hash(),
            "checkpoint": str(run),
            "weights": weights,
            "seed": seed,
            "data": source,
            "tile": tile,
            "tta": tta,
            "device": str(where),
            **provenance(typed_command(), where),
        }
        _write(out, split, found, about, title)
        console.print(f"written: {escape(str(out))}")
    if failed:
        raise typer.Exit(1)


def _data_of(run: Path, header: dict[str, Any]) -> str:
    """What was trained on: as a run folder says, which follows data that was moved, or a weight file."""
    from ..engine import RunFolder
    from ..errors import ConfigError

    found = RunFolder(run).read_config().data if run.is_dir() else header["config"]["data"]
    if not found:
        raise ConfigError(
            "there is nothing to evaluate on",
            where=run,
            found="weights that do not say what they were trained on",
            fix="give --data",
        )
    return str(found)


def _write(out: Path, split: str, found: dict[str, Examination], about: dict[str, Any], title: str) -> None:
    """Write the figures as JSON and, into a folder, the tables and pictures too."""
    from .._files import write_json
    from ..viz import plot_detection_curves

    figures = {
        "metrics": {split: {role: one.metrics for role, one in found.items()}},
        **about,
        "groups": {role: one.groups for role, one in found.items()},
        "curves": {role: one.curves.to_dict() for role, one in found.items()},
    }
    if out.suffix == ".json":
        write_json(out, figures)
        return
    write_json(out / "metrics.json", figures)
    for role, one in found.items():
        one.write(out, role)
    threshold = about["convention"]["threshold"]
    curves = {role: one.curves for role, one in found.items()}
    plot_detection_curves(curves, out / "curves.png", threshold, title)
