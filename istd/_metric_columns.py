"""The metrics that tables show, and how: the same in the terminal and in reports. Imports nothing heavy."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

METRIC_COLUMNS = {"iou": "IoU", "niou": "nIoU", "pd": "Pd", "fa": "Fa ·1e-6", "f1": "F1"}
"""Key of a metric → heading of its column. Fa is shown in pixels per million."""


def is_number(value: Any) -> bool:
    """Whether a value from a file is a number that can be drawn and printed."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def metric_cell(key: str, value: Any) -> str:
    """A metric as text; a dash for what is no number."""
    if not is_number(value):
        return "–"
    return f"{value * 1e6:.1f}" if key == "fa" else f"{value:.4f}"


def metric_spread(key: str, values: Sequence[float]) -> str:
    """Mean ± standard deviation of at least two values."""
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"{metric_cell(key, mean)} ± {metric_cell(key, deviation)}"
