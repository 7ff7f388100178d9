"""How labels evolved, as a moving picture and as curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from .._files import atomic_path
from ._figure import BLUE, GREEN, GREY, ORANGE, new_figure, save_figure
from .gallery import LabelStrip

_TRUTH = (0, 230, 120)
_TILE = 192
_BAR = 18


def write_evolution_gif(strips: Sequence[LabelStrip], path: str | Path, milliseconds: int = 500) -> None:
    """Write a GIF with one tile per strip and one frame per label; it starts anew after a pause.

    A tile shows the window, its label in warm colours over it, and the outline of the mask in green. All
    strips must have the same number of labels.
    """
    frames = []
    for number, (heading, _) in enumerate(strips[0].labels):
        tiles = [_tile(strip, number) for strip in strips]
        frames.append(_sheet(tiles, heading))
    durations = [milliseconds] * (len(frames) - 1) + [3 * milliseconds]
    pictures = [Image.fromarray(frame) for frame in frames]
    with atomic_path(path) as partial:
        pictures[0].save(
            partial, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0
        )


def plot_label_quality(
    epochs: Sequence[int], series: Mapping[str, Sequence[float | None]], path: str | Path
) -> None:
    """Draw IoU, precision and recall of labels against the epoch.

    Args:
        epochs: of each version.
        series: name → a value for each version, or None where there is none.
        path: the PNG to write.
    """
    figure = new_figure(6.4, 3.8)
    axes = figure.subplots()
    for (name, values), color in zip(series.items(), (BLUE, GREEN, ORANGE, GREY), strict=False):
        points = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, label=name, marker="o", markersize=3)
    axes.set_xlabel("epoch")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.25)
    axes.set_title("Labels against the masks (which training does not see)", fontsize=10)
    if axes.lines:
        axes.legend(fontsize=8)
    save_figure(figure, path)


def _tile(strip: LabelStrip, number: int) -> np.ndarray:
    """One window with its label, uint8 [_TILE + _BAR, _TILE, 3]."""
    scale = _TILE / max(strip.image.shape)
    size = tuple(max(1, round(side * scale)) for side in strip.image.shape[::-1])
    low, high = np.percentile(strip.image, (0.5, 99.9))
    gray = ((strip.image - low) / max(float(high - low), 1.0)).clip(0, 1)
    gray = cv2.resize(gray.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)[..., None] * 255
    label = cv2.resize(strip.labels[number][1].astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    colours = cv2.applyColorMap((label * 255).astype(np.uint8), cv2.COLORMAP_HOT)[..., ::-1]
    alpha = 0.6 * (label > 0.02)[..., None]
    picture = ((1 - alpha) * gray + alpha * colours).astype(np.uint8)
    if strip.truth is not None:
        truth = cv2.resize(strip.truth.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(truth, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, _TRUTH, 1)
    tile = np.zeros((_TILE + _BAR, _TILE, 3), np.uint8)
    tile[: size[1], : size[0]] = picture
    _text(tile, strip.name, _TILE + _BAR - 5)
    return tile


def _sheet(tiles: Sequence[np.ndarray], heading: str) -> np.ndarray:
    columns = math.ceil(math.sqrt(len(tiles)))
    blank = np.zeros_like(tiles[0])
    filled = [*tiles, *[blank] * (-len(tiles) % columns)]
    rows = [np.hstack(filled[i : i + columns]) for i in range(0, len(filled), columns)]
    head = np.zeros((_BAR, rows[0].shape[1], 3), np.uint8)
    _text(head, heading, _BAR - 5)
    return np.vstack([head, *rows])


def _text(picture: np.ndarray, text: str, bottom: int) -> None:
    cv2.putText(picture, text, (4, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
