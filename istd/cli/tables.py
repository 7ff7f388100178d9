"""Results as tables in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .._metric_columns import METRIC_COLUMNS, metric_cell

if TYPE_CHECKING:
    from ..engine import RunFolder


def metrics_table(title: str, rows: dict[str, dict[str, float]]) -> Table:
    """One line a detector: IoU, nIoU, Pd, false-alarm area per million pixels, F1."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("")
    for heading in METRIC_COLUMNS.values():
        table.add_column(heading, justify="right")
    for name, values in rows.items():
        table.add_row(name, *(metric_cell(key, values[key]) for key in METRIC_COLUMNS))
    return table


def groups_table(title: str, groups: dict[str, dict[str, Any]]) -> Table:
    """One line a target group: how many targets, Pd, share of their pixels found, mean IoU of a target."""
    table = Table("group", title=escape(title), title_justify="left")
    for heading in ("targets", "Pd", "pixel recall", "target IoU"):
        table.add_column(heading, justify="right")
    for group, values in groups.items():
        ratios = [
            f"{values[key]:.4f}" if values["targets"] else "–" for key in ("pd", "recall", "target_iou")
        ]
        table.add_row(group, str(values["targets"]), *ratios)
    return table


def results_table(results: dict[str, Any]) -> Table:
    """The figures of a finished run; what the reader must know about them stands below."""
    config = results["config"]
    rows = {}
    for split in ("test", "val"):
        for role, values in results["metrics"].get(split, {}).items():
            rows[f"{role} ({split})"] = values
    said = "against the masks" if rows else "no masks to measure against"
    table = metrics_table(f"{config['method']} · {config['backbone']} · {said}", rows)
    notes = [f"selected by {results['selection']['rule']} at epoch {results['selection']['epoch']}"]
    if results["vfm"] is not None:
        notes.append(escape(f"teacher sees {results['vfm']['name']}"))
        if results["vfm"]["random"]:
            notes.append(
                "[bold yellow]whose weights are RANDOM: these are not the method's figures[/bold yellow]"
            )
    elif any("teacher" in scores for scores in results["metrics"].values()):
        notes.append("no vision foundation model")
    table.caption = "\n".join(notes)
    table.caption_justify = "left"
    return table


def show_files(console: Console, folder: RunFolder) -> None:
    """Say where the results and pictures are."""
    console.print("\nwritten:")
    for path, what in (
        (folder.results, "results, protocol and versions"),
        (folder.per_image, "one line per test image"),
        (folder.overlays, "what the student finds"),
        (folder.curves, "training curves"),
        (folder.gallery, "how the labels evolved"),
        (folder.labels, "every version of the labels"),
        (folder.student, "the detector, for `istd predict`"),
        (folder.log, "log"),
    ):
        if path.exists():
            console.print(f"  {escape(str(path))}  [dim]{what}[/dim]", highlight=False, soft_wrap=True)
