"""The picture of a benchmark that also runs without matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from istd._files import atomic_path


def save_picture(path: Path, draw: Callable[[Any], Any]) -> str:
    """Write the figure that `draw` makes with the `pyplot` it is given, as PNG.

    Returns:
        A sentence that says why there is no picture; empty if there is one.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        return f"no plot, matplotlib is not installed ({error})"
    figure = draw(plt)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=120)
    plt.close(figure)
    return ""
