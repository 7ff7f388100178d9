"""One picture: memory against the number of images, and time against size, crop and unroll steps."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from common.picture import save_picture

from . import growth, sizes, steps
from .report import growths
from .rows import Row


def plot(path: Path, rows: list[Row]) -> str:
    """Write the picture; a sentence says why if there is none, otherwise it is empty."""
    panels = [
        draw
        for cell, draw in (
            (growth.CELL, _memory),
            (sizes.CELL, _sizes),
            (steps.INNER, _crops),
            (steps.UNROLL, _unroll),
        )
        if any(row.cell == cell for row in rows)
    ]
    if not panels:
        return "no plot, there is no figure to show"
    return save_picture(path, partial(_draw, panels, rows))


def _draw(panels: list[Any], rows: list[Row], plt: Any) -> Any:
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 3.8), squeeze=False, layout="constrained"
    )
    for draw, axis in zip(panels, axes[0], strict=True):
        draw(axis, rows)
        axis.grid(alpha=0.3)
    return figure


def _memory(axis: Any, rows: list[Row]) -> None:
    """Bytes that one image more keeps in memory, step by step."""
    total = {"in memory": growths(rows, False), "streamed": growths(rows, True)}
    names = [name for name in ("loading", "first labels", "evolving labels") if name in total["streamed"]]
    for number, (mode, found) in enumerate(total.items()):
        places = [position + 0.4 * number for position in range(len(names))]
        axis.bar(places, [max(found[name].peak, 1.0) for name in names], 0.38, label=mode)
    axis.set_xticks([position + 0.2 for position in range(len(names))], names, fontsize=8)
    axis.set_yscale("log")
    axis.set_ylabel("bytes at the peak, for one image more")
    axis.legend(fontsize=8)


def _sizes(axis: Any, rows: list[Row]) -> None:
    mine = [row for row in rows if row.cell == sizes.CELL]
    for what in dict.fromkeys(row.what for row in mine):
        points = sorted((row.at["height"] * row.at["width"], row.each) for row in mine if row.what == what)
        axis.plot(*zip(*points, strict=True), "o-", markersize=4, label=what)
    axis.set(xscale="log", yscale="log", xlabel="pixels of an image", ylabel="CPU s for one image")
    axis.legend(fontsize=6)


def _crops(axis: Any, rows: list[Row]) -> None:
    mine = [row for row in rows if row.cell == steps.INNER]
    points = sorted((row.at["batch"] * row.at["crop"] ** 2, row.each) for row in mine)
    axis.plot(*zip(*points, strict=True), "o-", markersize=4)
    axis.set(xscale="log", yscale="log", xlabel="pixels of a batch", ylabel="CPU s of an inner step")


def _unroll(axis: Any, rows: list[Row]) -> None:
    mine = sorted((row.at["T"], row.each, row.peak / 1e6) for row in rows if row.cell == steps.UNROLL)
    axis.plot([one[0] for one in mine], [one[1] for one in mine], "o-", label="CPU s")
    axis.set(xlabel="unroll steps T", ylabel="CPU s of an outer step")
    other = axis.twinx()
    other.plot([one[0] for one in mine], [one[2] for one in mine], "s--", color="tab:orange")
    other.set_ylim(bottom=0)
    other.set_ylabel("memory, MB (dashed)")
