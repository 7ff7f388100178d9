"""Training curves from a run's log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .._metric_columns import is_number
from ._figure import BLUE, GREEN, GREY, ORANGE, RED, new_figure, save_figure


def plot_curves(records: Sequence[dict[str, Any]], path: str | Path, title: str = "") -> None:
    """Draw loss, validation accuracy, label quality and cluster weights against the epoch.

    Args:
        records: the lines of `log.jsonl`; those with `"event": "epoch"` are used.
        path: the PNG to write.
        title: a line above the panels.
    """
    epochs = [
        record for record in records if record.get("event") == "epoch" and is_number(record.get("epoch"))
    ]
    figure = new_figure(11, 6.2)
    loss, accuracy, labels, weights = figure.subplots(2, 2).ravel()

    _line(loss, epochs, "loss", BLUE, "training")
    _line(loss, epochs, "outer_loss", ORANGE, "outer (held out)")
    _finish(loss, "Loss", log=True)

    _line(accuracy, epochs, "val_student_iou", BLUE, "student IoU")
    _line(accuracy, epochs, "val_student_niou", GREEN, "student nIoU")
    _line(accuracy, epochs, "val_student_pd", ORANGE, "student Pd")
    _finish(accuracy, "Validation split", limits=(0, 1))

    _line(labels, epochs, "label_iou_train", BLUE, "IoU with the masks, train")
    _line(labels, epochs, "label_iou_val", ORANGE, "IoU with the masks, val")
    _line(labels, epochs, "pool_fraction", GREY, "share of images in the pool")
    _finish(labels, "Labels (masks only watched, never trained on)", limits=(0, 1))

    _line(weights, epochs, "weight_max", RED, "largest cluster weight")
    _line(weights, epochs, "weight_min", BLUE, "smallest cluster weight")
    _finish(weights, "Cluster weights")

    if title:
        figure.suptitle(title, parse_math=False)
    save_figure(figure, path)


def _line(axes: Axes, records: Sequence[dict[str, Any]], key: str, color: str, label: str) -> None:
    points = [(record["epoch"] + 1, record[key]) for record in records if is_number(record.get(key))]
    if points:
        axes.plot(
            *zip(*points, strict=True), color=color, label=label, marker="o", markersize=2.5, linewidth=1.4
        )


def _finish(axes: Axes, title: str, *, log: bool = False, limits: tuple[float, float] | None = None) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.25)
    if not axes.lines:
        axes.text(
            0.5, 0.5, "not part of this run", ha="center", va="center", transform=axes.transAxes, color=GREY
        )
        return
    if log and all((np.asarray(line.get_ydata(), float) > 0).all() for line in axes.lines):
        axes.set_yscale("log")
    if limits:
        axes.set_ylim(*limits)
    axes.legend(fontsize=8)
