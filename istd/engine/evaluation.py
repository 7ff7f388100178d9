"""Probability maps at native size, and the metrics over a whole split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from ..data import ImageSet
from ..errors import DataError
from ..metrics import DetectionMetrics, MetricConvention
from ..ragged import ImageSource
from .ranks import ALONE, Ranks
from .tiling import LogitFunction, Tiling, probability_maps_of


def probability_maps(
    predict: LogitFunction,
    images: ImageSet,
    progress: Callable[[int, int], None] | None = None,
    only: Sequence[int] | None = None,
    tiling: Tiling | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (number of the image, probabilities float32 [H, W]), one image at a time, at its native size."""
    tiling = tiling if tiling is not None else Tiling()
    numbers = range(len(images.names)) if only is None else only
    for done, number in enumerate(numbers):
        yield number, probability_maps_of(predict, [images.images.image(number)], tiling)[0]
        if progress is not None:
            progress(done + 1, len(numbers))


def evaluate(
    predict: LogitFunction,
    images: ImageSet,
    convention: MetricConvention,
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks = ALONE,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics of a detector on a split with masks; each process of a run takes its share of the images.

    Returns:
        The metrics over the split, and one row per image.

    Raises:
        DataError: an image of the split has no mask.
    """
    masks = check_masks(images)
    metrics = DetectionMetrics(convention, sync_on_compute=False)  # its own way would lose the order
    with ranks.in_turns(range(len(images.names))) as own:
        for number, probability in probability_maps(predict, images, progress, own):
            metrics.update(probability[None, None], masks.image(number)[None, None])
    metrics.rows = ranks.joined(metrics.rows)
    rows = [{"name": name, **row} for name, row in zip(images.names, metrics.per_image(), strict=True)]
    return {key: float(value) for key, value in metrics.compute().items()}, rows


def check_masks(images: ImageSet) -> ImageSource:
    """The masks of a split. Raises `DataError` if an image has none."""
    if images.masks is None:
        raise DataError(
            "there is nothing to compare with: images of this split have no mask",
            found=f"{len(images)} images, among them {', '.join(images.names[:3])}",
            expected="a mask for every image to evaluate on",
            fix="add masks, or look at what is found without them: `istd predict`",
        )
    return images.masks
