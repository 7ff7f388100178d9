"""Pictures of a run: training curves, detections over images, and how the labels evolved."""

from .curves import plot_curves
from .detection_curves import plot_detection_curves
from .evolution import plot_label_quality, write_evolution_gif
from .gallery import LabelStrip, plot_gallery
from .label_views import label_strips, most_changed, thin_out
from .overlays import Overlay, draw_overlay, plot_overlays

__all__ = [
    "LabelStrip",
    "Overlay",
    "draw_overlay",
    "label_strips",
    "most_changed",
    "plot_curves",
    "plot_detection_curves",
    "plot_gallery",
    "plot_label_quality",
    "plot_overlays",
    "thin_out",
    "write_evolution_gif",
]
