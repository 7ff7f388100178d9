"""What the settings of every start that cuts a region out of a window around a point have to fulfil."""

from __future__ import annotations

from typing import Protocol

from .._regions import check_connectivity
from ..errors import ConfigError


class WindowSettings(Protocol):
    """The settings they share."""

    @property
    def fraction(self) -> float: ...
    @property
    def window(self) -> int: ...
    @property
    def peak_radius(self) -> int: ...
    @property
    def percentile(self) -> float: ...
    @property
    def max_share(self) -> float: ...
    @property
    def connectivity(self) -> int: ...


def check_window(settings: WindowSettings) -> None:
    """Raises `ConfigError` for a setting out of its range."""
    check_connectivity(settings.connectivity)
    if not 0.0 <= settings.fraction < 1.0:
        raise ConfigError(
            "the boundary fraction is out of range", found=settings.fraction, expected="0 ≤ fraction < 1"
        )
    if settings.window < 3 or settings.window % 2 == 0:
        raise ConfigError("the window needs an odd side of at least 3", found=settings.window)
    if not 0 <= settings.peak_radius <= settings.window // 2:
        raise ConfigError("the peak radius leaves the window", found=settings.peak_radius)
    if not 0.0 <= settings.percentile <= 100.0:
        raise ConfigError(
            "the background percentile is out of range", found=settings.percentile, expected="0…100"
        )
    if not 0.0 < settings.max_share <= 1.0:
        raise ConfigError(
            "the largest share of the window is out of range", found=settings.max_share, expected="(0, 1]"
        )
