"""All that can be said of a detector on a split with masks, from one pass over the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._csv import to_csv
from .._files import write_text
from ..data import ImageSet
from ..metrics import Curves, DetectionMetrics, GroupMetrics, MetricConvention, ThresholdSweep
from ..viz import Overlay, plot_overlays
from .evaluation import check_masks, probability_maps
from .tiling import LogitFunction, Tiling


@dataclass(frozen=True)
class Examination:
    """What `examine` found.

    Attributes:
        metrics: over the split.
        rows: one a image: name, groups of its targets, ratios and counts.
        curves: all metrics against the threshold.
        groups: metrics by target group.
        worst: the images with the least IoU, the worst first.
    """

    metrics: dict[str, float]
    rows: list[dict[str, Any]]
    curves: Curves
    groups: dict[str, dict[str, float | int]]
    worst: list[Overlay]

    def write(self, folder: Path, role: str) -> None:
        """Write the tables and the gallery of a role into `folder`."""
        groups = [{"group": group, **scores} for group, scores in self.groups.items()]
        for name, rows in (("per_image", self.rows), ("curves", self.curves.rows()), ("groups", groups)):
            write_text(folder / f"{role}_{name}.csv", to_csv(rows))
        plot_overlays(
            self.worst,
            folder / f"{role}_worst.png",
            title=f"{role}: least IoU first (orange: found, green: mask, yellow: point)",
        )


def examine(
    predict: LogitFunction,
    images: ImageSet,
    convention: MetricConvention,
    *,
    tiling: Tiling | None = None,
    worst: int = 12,
    progress: Callable[[int, int], None] | None = None,
) -> Examination:
    """Metrics, curves, target groups and worst cases of a detector.

    Args:
        predict: the network.
        images: with masks.
        convention: of the metrics.
        tiling: how images are cut and flipped; whole and once if None.
        worst: how many of the worst images to keep.
        progress: called with (images done, images in all).

    Raises:
        DataError: an image has no mask.
    """
    masks = check_masks(images)
    metrics, sweep = DetectionMetrics(convention), ThresholdSweep(convention=convention)
    groups = GroupMetrics(convention)
    of_image: list[str] = []
    kept: list[tuple[float, int, Overlay]] = []
    for number, probability in probability_maps(predict, images, progress, tiling=tiling):
        values, mask = probability.cpu().numpy(), masks.image(number).cpu().numpy() > 0
        image = images.images.image(number).cpu().numpy()
        found = values > convention.threshold
        metrics.update(probability[None, None], masks.image(number)[None, None])
        sweep.update(values, mask)
        of_image.append(" ".join(groups.update(image, found, mask)))
        union = int((found | mask).sum())
        score = float((found & mask).sum()) / union if union else 1.0
        kept.append((score, number, Overlay(images.names[number], image, found, mask, images.points[number])))
        kept = sorted(kept, key=lambda entry: entry[:2])[:worst]
    rows = [
        {"name": name, "groups": kinds, **row}
        for name, kinds, row in zip(images.names, of_image, metrics.per_image(), strict=True)
    ]
    return Examination(
        {key: float(value) for key, value in metrics.compute().items()},
        rows,
        sweep.curves(),
        {str(group): scores for group, scores in groups.compute().items()},
        [overlay for _, _, overlay in kept],
    )
