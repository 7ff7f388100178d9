"""Detections drawn over their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ._figure import new_figure, save_figure

_PREDICTION, _TRUTH, _POINT = (255, 80, 0), (0, 230, 120), (255, 230, 0)  # RGB


@dataclass(frozen=True)
class Overlay:
    """One image with what is known and what was found.

    Attributes:
        name: the image's name.
        image: uint8 [H, W].
        prediction: bool [H, W].
        truth: bool [H, W], or None.
        points: int [N, 2], rows (y, x), or None.
    """

    name: str
    image: np.ndarray
    prediction: np.ndarray
    truth: np.ndarray | None = None
    points: np.ndarray | None = None


def draw_overlay(overlay: Overlay, scale: int = 1) -> np.ndarray:
    """Draw outlines (prediction orange, truth green) and points (yellow crosses) over the image.

    Returns:
        uint8 [H·scale, W·scale, 3], RGB.
    """
    picture = np.repeat(_stretch(overlay.image)[..., None], 3, axis=2)
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    if overlay.truth is not None:
        _outline(picture, overlay.truth, _TRUTH, scale)
    _outline(picture, overlay.prediction, _PREDICTION, scale)
    for y, x in overlay.points if overlay.points is not None else ():
        centre = (int(x) * scale + scale // 2, int(y) * scale + scale // 2)
        cv2.drawMarker(picture, centre, _POINT, cv2.MARKER_CROSS, markerSize=3 * scale, thickness=1)
    return picture


def plot_overlays(overlays: Sequence[Overlay], path: str | Path, columns: int = 4, title: str = "") -> None:
    """Write a sheet of overlays; each is cut to a window around the middle of its targets."""
    rows = max(1, -(-len(overlays) // columns))
    figure = new_figure(2.7 * columns, 2.9 * rows + (0.4 if title else 0.0))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, overlay in zip(grid, overlays, strict=False):
        axes.imshow(draw_overlay(_window(overlay), scale=4))
        axes.set_title(overlay.name, fontsize=8, parse_math=False)  # a dollar sign would begin a formula
    figure.suptitle(title or "orange: found, green: mask, yellow: point", fontsize=10, parse_math=False)
    save_figure(figure, path)


def _stretch(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, (0.5, 99.9))
    scaled = (image.astype(np.float32) - low) / max(float(high - low), 1.0)
    return (scaled.clip(0.0, 1.0) * 255).astype(np.uint8)


def _outline(picture: np.ndarray, mask: np.ndarray, color: tuple[int, int, int], scale: int) -> None:
    enlarged = cv2.resize(mask.astype(np.uint8), None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(enlarged, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, color, 1)


def _window(overlay: Overlay, side: int = 96) -> Overlay:
    """Cut a `side` × `side` window around what there is to see, so that small targets are visible."""
    focus = next(
        (mask for mask in (overlay.truth, overlay.prediction) if mask is not None and mask.any()),
        None,
    )
    height, width = overlay.image.shape
    if focus is not None:
        ys, xs = np.nonzero(focus)
        middle = int(np.median(ys)), int(np.median(xs))
    elif overlay.points is not None and len(overlay.points):
        middle = int(overlay.points[0][0]), int(overlay.points[0][1])
    else:
        middle = height // 2, width // 2
    top = int(np.clip(middle[0] - side // 2, 0, max(0, height - side)))
    left = int(np.clip(middle[1] - side // 2, 0, max(0, width - side)))
    cut = np.s_[top : top + side, left : left + side]
    shape = overlay.image[cut].shape
    points = None
    if overlay.points is not None:
        moved = np.asarray(overlay.points).reshape(-1, 2) - (top, left)
        points = moved[((moved >= 0) & (moved < shape)).all(axis=1)]
    return Overlay(
        overlay.name,
        overlay.image[cut],
        overlay.prediction[cut],
        None if overlay.truth is None else overlay.truth[cut],
        points,
    )
