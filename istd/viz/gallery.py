"""How labels evolved: one row a target, one column a version of the label store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ._figure import new_figure, save_figure


@dataclass(frozen=True)
class LabelStrip:
    """The window around one point, with its label at several epochs.

    Attributes:
        name: the image's name.
        image: uint8 [h, w], the window.
        labels: pairs (heading, label), the label float [h, w] in [0, 1].
        truth: bool [h, w], or None where there is no mask.
    """

    name: str
    image: np.ndarray
    labels: Sequence[tuple[str, np.ndarray]]
    truth: np.ndarray | None


def plot_gallery(strips: Sequence[LabelStrip], path: str | Path, title: str = "Label evolution") -> None:
    """Write a PNG with one row per strip: image, labels over time, and the mask where there is one."""
    columns = 2 + max((len(strip.labels) for strip in strips), default=0)
    rows = max(1, len(strips))
    figure = new_figure(1.35 * columns, 1.5 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.axis("off")
    for row, strip in zip(grid, strips, strict=False):
        row[0].imshow(strip.image, cmap="gray")
        row[0].set_title(strip.name, fontsize=7, parse_math=False)
        for axes, (heading, label) in zip(row[1:-1], strip.labels, strict=False):
            axes.imshow(label, cmap="inferno", vmin=0.0, vmax=1.0)
            axes.set_title(heading, fontsize=7)
            if strip.truth is not None and strip.truth.any():
                axes.contour(strip.truth, levels=[0.5], colors="#00e678", linewidths=0.7)
        if strip.truth is not None:
            row[-1].imshow(strip.truth, cmap="gray", vmin=0, vmax=1)
            row[-1].set_title("mask", fontsize=7)
    figure.suptitle(title + " (green: outline of the mask, not trained on)", fontsize=9)
    save_figure(figure, path)
