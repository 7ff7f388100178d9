"""Figures without a window: made, written whole, and closed."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from .._files import atomic_path

#: Colours that stay apart for colour-blind readers (Okabe and Ito).
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"

_FURTHER_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans",
    "Malgun Gothic",
    "Arial Unicode MS",
)


def new_figure(width: float, height: float) -> Figure:
    """A figure of `width` × `height` inches that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path, dpi: int = 110) -> None:
    """Write `figure` as PNG to `path`, whole or not at all."""
    for text in figure.findobj(Text):
        if isinstance(text, Text) and not text.get_text().isascii():
            text.set_fontfamily(_families())
    with atomic_path(path) as partial, warnings.catch_warnings():
        # An image's name in a script that no installed font has is drawn as boxes, which is no news.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(partial, format="png", dpi=dpi)


@cache
def _families() -> list[str]:
    """Matplotlib's own font, and behind it those of the machine that have Chinese, Japanese and Korean."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _FURTHER_FONTS if name in installed)]
