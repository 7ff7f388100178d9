"""Precision-recall, ROC and Pd against Fa, one line a detector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from ..metrics import Curves
from ._figure import BLUE, GREEN, GREY, ORANGE, RED, new_figure, save_figure

_COLORS = (BLUE, ORANGE, GREEN, RED, GREY)


def plot_detection_curves(
    curves: Mapping[str, Curves], path: str | Path, threshold: float = 0.5, title: str = ""
) -> None:
    """Write a PNG with three panels; a dot marks `threshold` on every line.

    Args:
        curves: name of a detector → its curves.
        path: the PNG to write.
        threshold: the one that the figures in tables are for.
        title: a line above the panels.
    """
    figure = new_figure(12, 4.2)
    pr, roc, targets = figure.subplots(1, 3)
    for i, (name, one) in enumerate(curves.items()):
        color = _COLORS[i % len(_COLORS)]
        at = int(np.argmin(np.abs(one.thresholds - threshold)))
        lines = (
            (pr, one.recall, one.precision, f"{name}: AP {one.average_precision:.3f}"),
            (roc, one.false_positive_rate, one.recall, f"{name}: AUC {one.roc_auc:.4f}"),
            (targets, one.fa * 1e6, one.pd, name),
        )
        for axes, x, y, label in lines:
            axes.plot(x, y, color=color, label=label, marker=".", markersize=3, linewidth=1.3)
            axes.plot(x[at], y[at], "o", color=color, markersize=7)
    _finish(pr, "Precision and recall of pixels", "recall", "precision")
    _finish(roc, "ROC of pixels", "false positive rate", "true positive rate", log=True)
    _finish(targets, "Targets", "Fa, false-alarm pixels per million", "Pd", log=True)
    figure.suptitle(title or f"dots: threshold {threshold:g}", fontsize=10, parse_math=False)
    save_figure(figure, path)


def _finish(axes: Axes, title: str, x: str, y: str, log: bool = False) -> None:
    axes.set(title=title, xlabel=x, ylabel=y, ylim=(-0.02, 1.02))
    if log:
        # Interesting false-alarm rates span decades; zero has to have a place too.
        axes.set_xscale("symlog", linthresh=1.0 if "million" in x else 1e-6)
        axes.set_xlim(left=0.0)
        axes.tick_params(axis="x", labelsize=8)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
