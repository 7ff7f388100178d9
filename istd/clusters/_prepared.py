"""What several descriptor families need from an image, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prepared:
    """A gray image with its histogram, derivatives and blurred copies, each made when first asked for."""

    pixels: npt.NDArray[np.uint8]

    @cached_property
    def values(self) -> FloatArray:
        """float32 [H, W], gray levels 0…255."""
        return self.pixels.astype(np.float32)

    @cached_property
    def histogram(self) -> npt.NDArray[np.float64]:
        """float64 [256], share of the pixels at each gray level."""
        return np.bincount(self.pixels.reshape(-1), minlength=256) / self.pixels.size

    @cached_property
    def mean(self) -> float:
        """Mean gray level."""
        return float(self.histogram @ _LEVELS)

    @cached_property
    def std(self) -> float:
        """Standard deviation in gray levels."""
        return float(np.sqrt(self.histogram @ (_LEVELS - self.mean) ** 2))

    @cached_property
    def gradient(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Sobel derivatives along x and y, and their magnitude, float32 [H, W] each."""
        gx = cv2.Sobel(self.values, cv2.CV_32F, 1, 0, ksize=3)
        gy = cv2.Sobel(self.values, cv2.CV_32F, 0, 1, ksize=3)
        # Not cv2.magnitude: its last bit depends on where in memory the arrays happen to lie.
        return gx, gy, np.sqrt(gx * gx + gy * gy)

    def blurred(self, sigma: float) -> FloatArray:
        """The image under a Gaussian of `sigma` pixels; each is kept for the next family."""
        store: dict[float, FloatArray] = self.__dict__.setdefault("_blurred", {})
        if sigma not in store:
            store[sigma] = _blur(self.values, sigma)
        return store[sigma]

    def quantile(self, share: float) -> float:
        """The lowest gray level below or at which at least `share` of the pixels lie."""
        return float(np.searchsorted(np.cumsum(self.histogram), share - 1e-12))


def entropy(shares: npt.NDArray[Any]) -> float:
    """Shannon entropy of a distribution, in bits."""
    positive = shares[shares > 0]
    return float(-(positive * np.log2(positive)).sum())


def ratio(part: float, whole: float) -> float:
    """Part / whole, 0 where the whole vanishes: flat images have finite descriptors."""
    return part / whole if abs(whole) > 1e-12 else 0.0


def compress(value: float) -> float:
    """sign(v)·ln(1 + |v|): keeps one odd image from stretching the scale of a heavy-tailed descriptor."""
    return float(np.copysign(np.log1p(abs(value)), value))


def slope(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Slope of the least-squares line through the points."""
    centred = x - x.mean()
    return ratio(float(centred @ (y - y.mean())), float(centred @ centred))


def _blur(values: FloatArray, sigma: float) -> FloatArray:
    """Gaussian blur; a wide one on a reduced image, where it costs a fraction and loses little."""
    if sigma <= 4.0:
        return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), np.float32)
    factor = 2 ** int(np.log2(sigma / 2.0))
    height, width = values.shape
    size = (max(1, -(-width // factor)), max(1, -(-height // factor)))
    small = cv2.GaussianBlur(cv2.resize(values, size, interpolation=cv2.INTER_AREA), (0, 0), sigma / factor)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


_LEVELS = np.arange(256, dtype=np.float64)
