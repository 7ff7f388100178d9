"""Small targets as intensity profiles.

A profile is float64 [h, w] with maximum 1: what the optics make of the target, integrated over each pixel.
Its mask is where it exceeds a part of its maximum (`boundary`): public masks are drawn so, at about a third
of the peak on SIRST v1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from ..._regions import label_mask

_FINE = 4
"""Sub-pixels along each side of a pixel."""

Shape = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""(y, x, scale) → intensity in [0, 1]; coordinates in pixels from the centre, [h, w] each."""


@dataclass(frozen=True)
class Kind:
    """A family of targets.

    Attributes:
        draw: generator → a shape, free of its size.
        areas: smallest and largest mask area it is used for, in pixels.
    """

    draw: Callable[[np.random.Generator], Shape]
    areas: tuple[int, int]


def draw_profile(
    rng: np.random.Generator, kind: str, area: float, boundary: float = 0.33
) -> tuple[np.ndarray, np.ndarray]:
    """A random target of about the given area, at a random place between the pixels.

    Args:
        rng: where the shape comes from.
        kind: a key of `KINDS`.
        area: mask area in pixels; what comes out differs by a few pixels.
        boundary: part of the maximum above which a pixel belongs to the mask.

    Returns:
        The profile, float64 [h, w] with maximum 1, and its mask, bool [h, w], one 8-connected component that
        keeps at least 2 pixels from the border.
    """
    while True:
        shape = KINDS[kind].draw(rng)
        offset = rng.uniform(-0.5, 0.5, 2)
        psf = rng.uniform(0.45, 0.75)
        scale = math.sqrt(area / math.pi)
        for _ in range(5):
            profile = _render(shape, scale, offset, psf)
            mask = profile >= boundary
            scale *= math.sqrt(area / mask.sum())
        if label_mask(mask)[0] == 1:
            return profile, mask


def _render(shape: Shape, scale: float, offset: np.ndarray, psf: float) -> np.ndarray:
    """Draw at sub-pixel resolution, blur by the optics, integrate over pixels, cut off the void."""
    half = math.ceil(3.5 * scale) + 5
    side = 2 * half + 1
    fine = (np.arange(side * _FINE) + 0.5) / _FINE - side / 2
    y, x = np.meshgrid(fine - offset[0], fine - offset[1], indexing="ij")
    drawn = cv2.GaussianBlur(shape(y, x, scale), (0, 0), psf * _FINE, borderType=cv2.BORDER_CONSTANT)
    profile = drawn.reshape(side, _FINE, side, _FINE).mean((1, 3))
    profile /= profile.max()
    reach = np.abs(np.argwhere(profile > 0.003) - half).max() + 2
    cut = slice(max(0, half - reach), half + reach + 1)
    return profile[cut, cut]


def _rotated(y: np.ndarray, x: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    return math.cos(angle) * y - math.sin(angle) * x, math.sin(angle) * y + math.cos(angle) * x


def _point(rng: np.random.Generator) -> Shape:
    """A source that the optics cannot resolve: the point spread function itself."""
    return lambda y, x, scale: np.exp(-(y**2 + x**2) / (2 * (0.6 * scale) ** 2))


def _blob(rng: np.random.Generator) -> Shape:
    """A small disc or ellipse, from Gaussian to nearly flat."""
    angle, aspect, power = rng.uniform(0, np.pi), rng.uniform(1.0, 1.7), rng.uniform(1.0, 3.0)

    def shape(y: np.ndarray, x: np.ndarray, scale: float) -> np.ndarray:
        across, along = _rotated(y, x, angle)
        radius = (across / scale) ** 2 * aspect + (along / scale) ** 2 / aspect
        return np.exp(-(radius**power))

    return shape


def _streak(rng: np.random.Generator) -> Shape:
    """A short line, as of a target that moves during the exposure, fading towards one end."""
    angle, aspect, fade = rng.uniform(0, np.pi), rng.uniform(2.2, 4.5), rng.uniform(0.0, 0.5)

    def shape(y: np.ndarray, x: np.ndarray, scale: float) -> np.ndarray:
        across, along = _rotated(y, x, angle)
        thickness = scale / math.sqrt(aspect)
        length = scale * math.sqrt(aspect) - thickness
        place = np.clip(along, -length, length)
        away = across**2 + (along - place) ** 2
        brightness = 1 - fade * (0.5 + 0.5 * place / max(length, 1e-9))
        return brightness * np.exp(-((away / thickness**2) ** 1.5))

    return shape


def _irregular(rng: np.random.Generator) -> Shape:
    """A body with one to four limbs of different brightness: aircraft, vehicles, birds, ships."""
    body = rng.uniform(0, np.pi), rng.uniform(1.2, 2.6)
    limbs = [
        (rng.uniform(0, np.pi), rng.uniform(1.5, 3.5), *rng.uniform(-0.7, 0.7, 2), rng.uniform(0.45, 1.0))
        for _ in range(int(rng.integers(1, 5)))
    ]

    def shape(y: np.ndarray, x: np.ndarray, scale: float) -> np.ndarray:
        parts = [(*body, 0.0, 0.0, 1.0, 0.9), *((*limb, 0.65) for limb in limbs)]
        drawn = np.zeros_like(y)
        for angle, aspect, dy, dx, brightness, size in parts:
            across, along = _rotated(y - dy * scale, x - dx * scale, angle)
            radius = ((across**2) * aspect + along**2 / aspect) / (size * scale) ** 2
            drawn = np.maximum(drawn, brightness * np.exp(-(radius**2)))
        return drawn

    return shape


KINDS: dict[str, Kind] = {
    "point": Kind(_point, (4, 20)),
    "blob": Kind(_blob, (6, 180)),
    "streak": Kind(_streak, (8, 80)),
    "irregular": Kind(_irregular, (12, 330)),
}
"""Every kind of target by name."""
