"""Time and tensor memory against the number of inner steps, a column for each problem."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from common.picture import save_picture

from .methods import METHODS
from .rows import Row


def plot(path: Path, rows: list[Row]) -> str:
    """Write the picture; a sentence says why if there is none, otherwise it is empty."""
    good = [row for row in rows if row.status == "ok"]
    return save_picture(path, partial(_draw, good)) if good else "no plot, there is no row to show"


def _draw(good: list[Row], plt: Any) -> Any:
    problems = list(dict.fromkeys(row.problem for row in good))
    methods = list(dict.fromkeys(row.method for row in good))
    figure, axes = plt.subplots(
        2,
        len(problems),
        figsize=(3.6 * len(problems) + 2.6, 6),
        squeeze=False,
        sharex="col",
        layout="constrained",
    )
    colours = plt.get_cmap("tab20")
    for column, problem in enumerate(problems):
        for line, (what, label) in enumerate(
            (("seconds", "seconds"), ("tensor_mb", "peak live tensors, MB"))
        ):
            axis = axes[line][column]
            for index, method in enumerate(methods):
                points = sorted(
                    (row.steps, getattr(row, what))
                    for row in good
                    if (row.problem, row.method) == (problem, method) and getattr(row, what) is not None
                )
                if points:
                    ours = METHODS[method].library == "bilevel"
                    axis.plot(
                        *zip(*points, strict=True),
                        "o-" if ours else "x--",
                        color=colours(index % 20),
                        linewidth=1.8 if ours else 1.0,
                        markersize=4,
                        label=method,
                        alpha=1.0 if METHODS[method].exact else 0.5,
                    )
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.grid(alpha=0.3)
            if line == 0:
                axis.set_title(problem)
            else:
                axis.set_xlabel("inner steps T")
            if column == 0:
                axis.set_ylabel(label)
    # One legend for all: every method is drawn somewhere, though not in every panel.
    handles = {
        text: handle
        for axis in axes.flat
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    shown = [method for method in methods if method in handles]
    figure.legend(
        [handles[one] for one in shown], shown, loc="outside right center", frameon=False, fontsize=8
    )
    figure.suptitle(
        "One hypergradient. Pale: not exact. Dashed: other libraries and plain autograd", fontsize=9
    )
    return figure
