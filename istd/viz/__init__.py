"""Pictures of a run: training curves, detections over images, and how the labels evolved."""

from .curves import plot_curves
from .detection_curves import plot_detection_curves
from .evolution import plot_label_quality, write_evolution_gif
from .gallery import LabelStrip, plot_gallery
from .overlays import Overlay, draw_overlay, plot_overlays

__all__ = [
    "LabelStrip",
    "Overlay",
    "draw_overlay",
    "plot_curves",
    "plot_detection_curves",
    "plot_gallery",
    "plot_label_quality",
    "plot_overlays",
    "write_evolution_gif",
]
