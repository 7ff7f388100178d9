"""`istd labels`: how the labels of a run evolved."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import numpy as np

    from ..data import Dataset, Record
    from ..labels import LabelStore, VersionQuality


def labels(
    run: Annotated[
        Path,
        typer.Argument(help="Run folder that `istd train` wrote, or a label store.", metavar="RUN|STORE"),
    ],
    data: Annotated[
        str, typer.Option("--data", help="Where the images are; by default what the run was trained on.")
    ] = "",
    images: Annotated[
        list[str] | None, typer.Option("--image", metavar="NAME", help="Show this image; as often as needed.")
    ] = None,
    count: Annotated[
        int, typer.Option("--count", min=1, max=64, help="Without --image: how many to show.")
    ] = 6,
    columns: Annotated[
        int, typer.Option("--columns", min=2, max=40, help="Versions in the gallery, spread over the run.")
    ] = 8,
    gif: Annotated[bool, typer.Option("--gif/--no-gif", help="Also write evolution.gif.")] = True,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write to; label-report/ beside the store by default."),
    ] = None,
) -> None:
    """Look at the label store of a run: what every version changed, in a table, pictures and curves.

    Writes versions.csv, provenance.json (how to make it again) and, where the images are known, gallery.png
    and evolution.gif; where they have masks too, iou.png, and the IoU, precision and recall of the labels in
    table and CSV. Shown are the images whose labels changed most often, or those given by --image.

    Examples:

        istd labels runs/demo

        istd labels runs/train --image Misc_7 --image Misc_31 --columns 12

        istd labels some/labels.h5 --data data/sirst --no-gif
    """
    from .._csv import to_csv
    from .._files import write_json, write_text
    from .._provenance import provenance, typed_command
    from ..engine import RunFolder
    from ..labels import LabelStore, quality_by_version
    from ..viz import most_changed

    console = Console()
    path = RunFolder(run).labels if run.is_dir() else run
    store = LabelStore.open(path)
    dataset = _dataset_of(run, data)
    shown: dict[str, Record | None] = dict.fromkeys(images or most_changed(store, count))
    _check_names(store, tuple(shown), dataset)
    rows = quality_by_version(store, () if dataset is None else _masks(console, dataset, store, shown))
    console.print(_table(rows))
    folder = out or path.parent / "label-report"
    write_text(folder / "versions.csv", to_csv([dataclasses.asdict(row) for row in rows]))
    about = {
        "store": str(path),
        "settings": store.settings,
        "data": None if dataset is None else str(dataset.root),
        "split_hash": None if dataset is None else dataset.split_hash(),
        **provenance(typed_command()),
    }
    write_json(folder / "provenance.json", about)
    written = [folder / "versions.csv", folder / "provenance.json"]
    if rows[-1].iou is not None:
        written.append(_draw_curves(rows, folder))
    records = [record for record in shown.values() if record is not None]
    if records:
        written += _draw_pictures(store, records, columns, gif, folder)
    else:
        console.print("pictures need the images: give --data")
    for one in written:
        console.print(f"written: {escape(str(one))}", highlight=False, soft_wrap=True)


def _dataset_of(run: Path, data: str) -> Dataset | None:
    """The images of the store: `data`, or what the run was trained on; None if that is not known."""
    from ..data import open_dataset
    from ..engine import RunFolder

    if not data and run.is_dir():
        data = RunFolder(run).read_config().data
    return open_dataset(data) if data else None


def _check_names(store: LabelStore, shown: tuple[str, ...], dataset: Dataset | None) -> None:
    from ..errors import LabelError

    for names, known, what, fix in (
        (
            shown,
            store.names,
            "there is no label of this image",
            "give names of training or validation images",
        ),
        (
            store.names,
            store.names if dataset is None else dataset.names,
            "the labels are of other images than the data",
            "give the data that the run was trained on with --data",
        ),
    ):
        strange = sorted(set(names) - set(known))
        if strange:
            raise LabelError(
                what,
                where=store.path,
                found=", ".join(strange[:5]) + (", …" if len(strange) > 5 else ""),
                fix=fix,
            )


def _masks(
    console: Console, dataset: Dataset, store: LabelStore, shown: dict[str, Record | None]
) -> Iterator[tuple[str, np.ndarray]]:
    """The masks of the store's images, one after the other; the images in `shown` are kept there."""
    from ..engine.progress import Bars
    from ..errors import LabelError

    with Bars(console, "reading", len(store.names)) as bars:
        for done, (name, size) in enumerate(zip(store.names, store.sizes, strict=True), 1):
            record = dataset.read(name)
            if record.image.shape != size:
                raise LabelError(
                    f"the label of {name} has another size than its image",
                    where=store.path,
                    found=size,
                    expected=record.image.shape,
                    fix="give the data that the run was trained on with --data",
                )
            if name in shown:
                shown[name] = record
            if record.mask is not None:
                yield name, record.mask
            bars.advance(f"reading {done}/{len(store.names)}")


def _draw_pictures(
    store: LabelStore, records: list[Record], columns: int, gif: bool, folder: Path
) -> list[Path]:
    from ..viz import label_strips, plot_gallery, thin_out, write_evolution_gif

    strips = label_strips(store, records)
    written = [folder / "gallery.png"]
    plot_gallery(thin_out(strips, columns), written[0])
    if gif:
        written.append(folder / "evolution.gif")
        write_evolution_gif(strips, written[1])
    return written


def _draw_curves(rows: list[VersionQuality], folder: Path) -> Path:
    from ..viz import plot_label_quality

    path = folder / "iou.png"
    series = {
        "IoU": [row.iou for row in rows],
        "IoU of those that train": [row.pool_iou for row in rows],
        "precision": [row.precision for row in rows],
        "recall": [row.recall for row in rows],
    }
    plot_label_quality([row.epoch for row in rows], series, path)
    return path


def _table(rows: list[VersionQuality]) -> Table:
    """A line a version, in 80 columns; their notes are in versions.csv."""
    with_masks = rows[-1].iou is not None
    title = f"versions of the labels ({escape(rows[0].note)})" if rows[0].note else "versions of the labels"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    headings = ["", "epoch", "changed", "in", "out", "train"]
    quality = ["IoU", "of train", "precision", "recall"] if with_masks else []
    for heading in (*headings, *quality):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = [row.number, row.epoch, row.changed, row.entered, row.left, row.pool_size]
        figures = [row.iou, row.pool_iou, row.precision, row.recall] if with_masks else []
        shown = ["–" if figure is None else f"{figure:.3f}" for figure in figures]
        table.add_row(*map(str, cells), *shown)
    table.caption = "in, out: let into training, taken out"
    if with_masks:
        table.caption += "; of train: IoU of those that train"
    table.caption_justify = "left"
    return table
