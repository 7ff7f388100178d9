"""Images of any bit depth as the 8 bits that a screen shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from ..errors import ConfigError


@dataclass(frozen=True)
class Display:
    """How gray values become brightness.

    Attributes:
        low: percentile of the image's own values that becomes black, in [0, 100).
        high: percentile that becomes white, in (low, 100].
        gamma: brightness = ((value − black) / (white − black)) ** (1 / gamma); above 1 dark parts open up.
        invert: exchange black and white, for targets darker than their surroundings.

    The default cuts half a thousandth of the pixels off the bright end: a stuck detector pixel does not
    decide the contrast, and a small target, if it is that bright, stays white.

    Raises:
        ConfigError: a number outside these ranges.
    """

    low: float = 0.1
    high: float = 99.95
    gamma: float = 1.0
    invert: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100 or not 0.1 <= self.gamma <= 10:
            raise ConfigError(
                "the image cannot be shown like this",
                found=f"low {self.low}, high {self.high}, gamma {self.gamma}",
                expected="0 ≤ low < high ≤ 100 and 0.1 ≤ gamma ≤ 10",
            )


def window(values: np.ndarray, low: float, high: float) -> tuple[int, int]:
    """The smallest gray values that at least `low` and `high` percent of the pixels do not exceed.

    Args:
        values: uint8 or uint16 [H, W].
        low: percentile, 0 for the minimum.
        high: percentile, 100 for the maximum.
    """
    bins = int(np.iinfo(values.dtype).max) + 1
    counts = cv2.calcHist([values], [0], None, [bins], [0, bins]).ravel().astype(np.float64)
    share = np.cumsum(counts)
    share *= 100 / share[-1]
    first = int(np.flatnonzero(counts)[0])
    black, white = (int(np.searchsorted(share, min(one, share[-1]))) for one in (low, high))
    return max(black, first), white


def to_png(values: np.ndarray, display: Display | None = None) -> bytes:
    """An 8-bit gray PNG of `values`, uint8 or uint16 [H, W], stretched by percentiles; same size."""
    display = display or Display()
    black, white = window(values, display.low, display.high)
    # One table entry for each value the type can hold: the cost per pixel is a look-up.
    levels = np.arange(int(np.iinfo(values.dtype).max) + 1, dtype=np.float64)
    level = np.clip((levels - black) / max(white - black, 1), 0, 1) ** (1 / display.gamma)
    table = np.rint(255 * (1 - level if display.invert else level)).astype(np.uint8)
    return _encode(cv2.LUT(values, table) if values.dtype == np.uint8 else table[values])


def mask_png(mask: np.ndarray) -> bytes:
    """An RGBA PNG of `mask`, bool [H, W]: green where it is true, so thin that the target shows through."""
    picture = np.zeros((*mask.shape, 4), np.uint8)
    picture[mask] = (120, 230, 90, 90)  # blue, green, red, opacity
    return _encode(picture)


def _encode(picture: np.ndarray) -> bytes:
    # Speed over size: the file travels no farther than to the browser on this machine.
    _, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return data.tobytes()


def parse_display(query: dict[str, str]) -> Display:
    """A `Display` from the texts of a request. Raises `ConfigError` for anything that is none."""
    numbers: dict[str, float] = {}
    for key in ("low", "high", "gamma"):
        if key in query:
            try:
                numbers[key] = float(query[key])
            except ValueError:
                numbers[key] = math.nan
            if not math.isfinite(numbers[key]):
                raise ConfigError(f"{key} is not a number", found=query[key][:40])
    return Display(**numbers, invert=query.get("invert") == "1")
