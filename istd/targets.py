"""The targets in a probability map, as rows for a table, and tables of them as CSV, JSON and COCO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _csv
from ._regions import find_regions
from .errors import DataError

COLUMNS = ("image", "x", "y", "area", "score")


@dataclass(frozen=True)
class Target:
    """One detected target.

    Attributes:
        x, y: centroid of its pixels: column and row, in pixels, the first pixel's centre at 0.
        area: its pixels.
        score: the highest probability in it.
        box: (left, top, width, height) in whole pixels; left and top count from 0.
        counts: its pixels as COCO's uncompressed run lengths: off, on, off, … down the columns of the image.
    """

    x: float
    y: float
    area: int
    score: float
    box: tuple[int, int, int, int]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class ImageTargets:
    """The targets of one image.

    Attributes:
        name: the stem of the files that were written for it.
        file: the image file.
        height, width: its size in pixels.
        targets: what was found.
    """

    name: str
    file: str
    height: int
    width: int
    targets: tuple[Target, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImageTargets:
        """What `to_dict` wrote, also by way of JSON. Raises KeyError or TypeError on other values."""
        targets = tuple(
            Target(**{**_checked(target), "box": tuple(target["box"]), "counts": tuple(target["counts"])})
            for target in values["targets"]
        )
        if not all(isinstance(values[key], str) for key in ("name", "file")):
            raise TypeError("name and file are text")
        if not all(type(values[key]) is int and values[key] > 0 for key in ("height", "width")):
            raise TypeError("height and width are whole numbers")
        return cls(**{**values, "targets": targets})


def _checked(target: dict[str, Any]) -> dict[str, Any]:
    """The values of a target, if they are numbers as they should be; TypeError or KeyError if not."""
    whole = [target["area"], *target["box"], *target["counts"]]
    real = [target["x"], target["y"], target["score"]]
    if len(target["box"]) != 4 or not all(type(value) is int for value in whole):
        raise TypeError("area, box and counts are whole numbers")
    if not all(type(value) in (int, float) and -math.inf < value < math.inf for value in real):
        raise TypeError("x, y and score are numbers")
    return target


def list_targets(
    probability: npt.NDArray[np.floating[Any]],
    threshold: float = 0.5,
    connectivity: int = 8,
    min_area: int = 1,
) -> list[Target]:
    """The connected regions of a probability map above a threshold, in raster order of their first pixel.

    Args:
        probability: float [H, W].
        threshold: a pixel belongs to a target where its probability is strictly above.
        connectivity: 8 or 4.
        min_area: regions of fewer pixels are left out.

    Raises:
        DataError: the map is not [H, W] of floating point numbers; ConfigError: another connectivity.
    """
    probability = np.asarray(probability)
    if probability.ndim != 2 or not np.issubdtype(probability.dtype, np.floating):
        raise DataError(
            "targets are listed from a map of probabilities",
            found=f"{probability.dtype} {probability.shape}",
            expected="float [H, W]",
        )
    regions = find_regions(probability > threshold, connectivity)
    inside = np.flatnonzero(regions.labels)
    numbers = regions.labels.reshape(-1)[inside]
    order = np.argsort(numbers, kind="stable")
    members = np.split(inside[order], np.cumsum(regions.areas)[:-1]) if regions.count else []
    return [
        _describe(probability, pixels, (float(y), float(x)))
        for pixels, (y, x) in zip(members, regions.centroids, strict=True)
        if pixels.size >= min_area
    ]


def _describe(
    probability: npt.NDArray[Any], pixels: npt.NDArray[np.intp], centre: tuple[float, float]
) -> Target:
    height, width = probability.shape
    rows, columns = np.divmod(pixels, width)
    left, top = int(columns.min()), int(rows.min())
    box = (left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1)
    places = np.sort(columns * height + rows)  # down the columns
    first = np.flatnonzero(np.diff(places, prepend=-2) > 1)
    starts, lengths = places[first], np.diff(first, append=places.size)
    edges = np.stack([starts, starts + lengths], axis=1).reshape(-1)
    counts = np.diff(edges, prepend=0, append=height * width)
    score = float(probability.reshape(-1)[pixels].max())
    return Target(centre[1], centre[0], pixels.size, score, box, tuple(counts.tolist()))


def draw_targets(targets: Sequence[Target], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The mask bool [H, W] that has these targets and nothing else."""
    height, width = shape
    steps = np.zeros(
        height * width + 1, np.int32
    )  # down the columns: +1 where a run starts, −1 where it ends
    for target in targets:
        edges = np.cumsum(target.counts)[:-1]
        steps[edges[0::2]] += 1
        steps[edges[1::2]] -= 1
    return np.ascontiguousarray((np.cumsum(steps)[:-1] > 0).reshape(width, height).T)


def to_csv(images: Sequence[ImageTargets]) -> str:
    """One line a target: image, x, y, area, score; with a header line."""
    cells = [
        (image.name, f"{t.x:.2f}", f"{t.y:.2f}", t.area, f"{t.score:.4f}")
        for image in images
        for t in image.targets
    ]
    return _csv.to_csv([dict(zip(COLUMNS, row, strict=True)) for row in cells], COLUMNS)


def to_json(images: Sequence[ImageTargets]) -> list[dict[str, Any]]:
    """One object an image, also where nothing was found: name, file, size and targets with their boxes."""
    keys = ("x", "y", "area", "score", "box")
    return [
        {
            "image": image.name,
            "file": image.file,
            "height": image.height,
            "width": image.width,
            "targets": [{key: getattr(target, key) for key in keys} for target in image.targets],
        }
        for image in images
    ]


def to_coco(images: Sequence[ImageTargets]) -> dict[str, Any]:
    """A COCO data set with scores: numbers from 1, masks as uncompressed run lengths."""
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        for target in image.targets:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": list(target.box),
                    "area": target.area,
                    "segmentation": {"size": [image.height, image.width], "counts": list(target.counts)},
                    "iscrowd": 0,
                    "score": target.score,
                }
            )
    return {
        "images": [
            {"id": number, "file_name": image.file, "height": image.height, "width": image.width}
            for number, image in enumerate(images, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "target"}],
    }
