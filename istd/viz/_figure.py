"""Figures without a window: made, written whole, and closed."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .._files import atomic_path

#: Colours that stay apart for colour-blind readers (Okabe and Ito).
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"


def new_figure(width: float, height: float) -> Figure:
    """A figure of `width` × `height` inches that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path, dpi: int = 110) -> None:
    """Write `figure` as PNG to `path`, whole or not at all."""
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=dpi)
