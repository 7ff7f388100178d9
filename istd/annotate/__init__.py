"""Clicking one point per target on one's own images, in a local web page."""

from __future__ import annotations

from .display import Display, to_png
from .point_file import PointFile
from .server import AnnotationServer
from .session import AnnotationSession, StaleRevisionError

__all__ = [
    "AnnotationServer",
    "AnnotationSession",
    "Display",
    "PointFile",
    "StaleRevisionError",
    "to_png",
]
