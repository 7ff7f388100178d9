"""PAL's first labels: the Canny contour around each point.

Yu et al., "From Easy to Hard: Progressive Active Learning Framework for Infrared Small Target Detection
with Single Point Supervision", ICCV 2025 (arXiv 2412.11154), the coarse outer contour of its start phase.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ._checks import IntArray
from ._initial import InitialLabels, register_initialization
from ._point_windows import label_windows


@dataclass(frozen=True)
class CannySettings:
    """How the contour is found; the defaults are PAL's.

    Attributes:
        window: side of the window in pixels; it reaches window/2 up and left of the point and one pixel
            less down and right, and is cut at the image's border.
        low: lower hysteresis threshold of Canny.
        high: upper hysteresis threshold of Canny.
        blur: side of the Gaussian kernel that is subtracted from the window before Canny.
        closing: side of the square that closes gaps in the edges.
        max_area: a contour that encloses more (polygon area, px²) counts as background structure.
    """

    window: int = 20
    low: float = 20.0
    high: float = 40.0
    blur: int = 3
    closing: int = 3
    max_area: float = 50.0

    def __post_init__(self) -> None:
        if self.window < 2 or self.window % 2:
            raise ConfigError("the Canny window needs an even side of at least 2", found=self.window)
        if self.blur < 1 or self.blur % 2 == 0 or self.closing < 1:
            raise ConfigError(
                "odd blur and positive closing sides are needed", found=(self.blur, self.closing)
            )


@register_initialization("canny", CannySettings)
def initialize_canny(
    image: npt.NDArray[np.uint8], points: IntArray, settings: CannySettings
) -> InitialLabels:
    """Fill the external Canny contour that contains each point; the point alone where there is none."""
    half = settings.window // 2
    return label_windows(image, points, (half, half - 1), partial(_contour_region, settings=settings))


def _contour_region(
    window: npt.NDArray[np.uint8], y: int, x: int, settings: CannySettings
) -> npt.NDArray[np.uint8] | None:
    """The filled external contour of the edges that contains the point (y, x), if it is small enough."""
    window = np.ascontiguousarray(window)
    detail = cv2.subtract(window, cv2.GaussianBlur(window, (settings.blur, settings.blur), 0))
    edges = cv2.Canny(detail, settings.low, settings.high)
    square = np.ones((settings.closing, settings.closing), np.uint8)
    edges = cv2.erode(cv2.dilate(edges, square), square)
    contours, _ = cv2.findContours(edges, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        if cv2.pointPolygonTest(contour, (x, y), False) < 0:
            continue
        if cv2.contourArea(contour) > settings.max_area:
            return None
        return cv2.fillPoly(np.zeros(window.shape, np.uint8), [contour], (1,))
    return None
