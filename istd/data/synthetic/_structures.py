"""Man-made things that stand in the scene and are no targets: masts, trusses, buildings."""

from __future__ import annotations

import cv2
import numpy as np

_SHIFT = 4
"""OpenCV draws with this many fractional bits, so that edges fall between pixels too."""


def add_structure(rng: np.random.Generator, field: np.ndarray) -> np.ndarray:
    """Draw one mast, truss or building, standing on the lower border; brighter or darker than its place."""
    height, width = field.shape
    cover = np.zeros(field.shape, np.uint8)
    base_x, top = rng.uniform(0.1, 0.9) * width, rng.uniform(0.25, 0.7) * height
    kind = rng.choice(["mast", "truss", "building"])
    if kind == "mast":
        _mast(rng, cover, base_x, top)
    elif kind == "truss":
        _truss(rng, cover, base_x, top)
    else:
        _building(rng, cover, base_x, top)
    soft = cv2.GaussianBlur(cover.astype(np.float64) / 255, (0, 0), 0.6)
    change = rng.uniform(30, 110) * (1.0 if rng.random() < 0.75 else -1.0)
    own = np.clip(np.median(field) + change, 5, 250) + 0.1 * (field - field.mean())
    return field * (1 - soft) + own * soft


def _line(cover: np.ndarray, start: tuple[float, float], end: tuple[float, float], thickness: int) -> None:
    """A line between two points (y, x)."""
    ends = [(round(x * 2**_SHIFT), round(y * 2**_SHIFT)) for y, x in (start, end)]
    cv2.line(cover, ends[0], ends[1], 255, thickness, cv2.LINE_AA, _SHIFT)


def _mast(rng: np.random.Generator, cover: np.ndarray, x: float, top: float) -> None:
    height, width = cover.shape
    _line(cover, (height, x), (top, x + rng.normal(0, 1)), int(rng.integers(1, 4)))
    for _ in range(int(rng.integers(0, 4))):
        y, arm = rng.uniform(top, 0.5 * (top + height)), rng.uniform(0.01, 0.06) * width
        _line(cover, (y, x - arm), (y, x + arm), 1)


def _truss(rng: np.random.Generator, cover: np.ndarray, x: float, top: float) -> None:
    """Two legs that meet above, cross-bars and diagonals between them; perhaps a jib, as on a crane."""
    height, width = cover.shape
    spread = rng.uniform(0.03, 0.1) * width
    rungs = np.linspace(height, top, int(rng.integers(5, 10)))
    widths = np.linspace(spread, 0.15 * spread, len(rungs))
    for side in (-1, 1):
        _line(cover, (height, x + side * spread), (top, x + side * widths[-1]), 2)
        for (y, reach), (next_y, next_reach) in zip(
            zip(rungs[:-1], widths[:-1], strict=True), zip(rungs[1:], widths[1:], strict=True), strict=True
        ):
            _line(cover, (y, x + side * reach), (next_y, x - side * next_reach), 1)
    if rng.random() < 0.5:
        reach, rise = rng.uniform(0.15, 0.4) * width, rng.uniform(-0.1, 0.2) * height
        side = rng.choice([-1.0, 1.0])
        _line(cover, (top, x), (top - rise, x + side * reach), 2)
        _line(cover, (top + 0.04 * height, x), (top - rise, x + side * reach), 1)
        hook = x + side * reach * rng.uniform(0.5, 0.95)
        _line(cover, (top - 0.7 * rise, hook), (top + rng.uniform(0.05, 0.3) * height, hook), 1)


def _building(rng: np.random.Generator, cover: np.ndarray, x: float, top: float) -> None:
    """Boxes side by side, some with windows."""
    height, width = cover.shape
    for _ in range(int(rng.integers(1, 4))):
        roof = round(top + rng.uniform(0, 0.3) * height)
        left, right = round(x), round(x + rng.uniform(0.06, 0.2) * width)
        cv2.rectangle(cover, (left, roof), (right, height), 255, -1)
        if rng.random() < 0.6:
            for y in range(roof + 3, height, 6):
                for column in range(left + 2, right - 2, 5):
                    cv2.rectangle(cover, (column, y), (column + 1, y + 2), 130, -1)
        x = right
