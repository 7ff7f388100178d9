"""Target groups by how a target looks: camouflaged, faint, filamentary, salient.

Each 8- or 4-connected true target R is described by its pixels and by a ring around it: its bounding box and
10 pixels on each side, without all targets and the 2 pixels around them (as in `istd.data.measure_targets`).

    contrast C = mean of R − mean of the ring, in gray levels of 255
    clutter  σ = standard deviation of the ring
    SCR        = C / σ
    elongation = √(λ₁ / λ₂), λ₁ ≥ λ₂ the eigenvalues of the covariance of R's pixel coordinates + I/12
                 (1/12 is the variance over one pixel, so a single pixel has elongation 1)

The first that applies is the target's group:

    camouflaged   |SCR| < 4          lost in the structure around it
    faint         |C| < 25           weak, but the background is smooth enough to show it
    filamentary   elongation ≥ 2.5   a streak
    salient       all others

The numbers are about the lowest tenths of SCR and contrast and the highest twelfth of elongation among the
327 training targets of SIRST v1. They are ours: other papers draw such groups by eye.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from torch import Tensor

from .._regions import Regions, as_bytes, find_regions
from ..errors import DataError
from .convention import MetricConvention
from .functional import Map, binarize, count_regions

Group = Literal["salient", "filamentary", "faint", "camouflaged"]
GROUPS: tuple[Group, ...] = get_args(Group)

CAMOUFLAGED_SCR = 4.0
FAINT_CONTRAST = 25.0
FILAMENTARY_ELONGATION = 2.5
_MARGIN = 10
_GAP = 2


@dataclass(frozen=True)
class TargetTraits:
    """What decides the group of a target; see the module.

    Attributes:
        area: pixels.
        contrast: C, in gray levels of 255; nan without a ring.
        scr: C / σ; infinite over a ring without variation, nan without a ring.
        elongation: ≥ 1.
    """

    area: int
    contrast: float
    scr: float
    elongation: float

    @property
    def group(self) -> Group:
        """The first group that applies. A target without a ring is judged by its shape alone."""
        if abs(self.scr) < CAMOUFLAGED_SCR:
            return "camouflaged"
        if abs(self.contrast) < FAINT_CONTRAST:
            return "faint"
        return "filamentary" if self.elongation >= FILAMENTARY_ELONGATION else "salient"


def describe_targets(image: Map, true: Regions) -> list[TargetTraits]:
    """Traits of each true target of an image, uint8 [H, W] (or gray levels of 0 … 255 of another type).

    Raises:
        DataError: image and regions differ in size.
    """
    values = np.asarray(image.cpu() if isinstance(image, Tensor) else image).astype(np.float64)
    if values.shape != true.labels.shape:
        raise DataError("image and mask differ in size", found=values.shape, expected=true.labels.shape)
    kernel = np.ones((2 * _GAP + 1, 2 * _GAP + 1), np.uint8)
    clear = cv2.dilate(as_bytes(true.labels), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) == 0
    return [
        _describe(values, box, true.labels[box] == number, clear)
        for number, box in enumerate(ndimage.find_objects(true.labels), 1)
    ]


def _describe(
    values: npt.NDArray[np.float64],
    box: tuple[slice, slice],
    inside: npt.NDArray[np.bool_],
    clear: npt.NDArray[np.bool_],
) -> TargetTraits:
    """The traits of a target: `box` is what bounds it, `inside` its pixels there."""
    rows, columns = np.nonzero(inside)
    window = (
        slice(max(0, box[0].start - _MARGIN), box[0].stop + _MARGIN),
        slice(max(0, box[1].start - _MARGIN), box[1].stop + _MARGIN),
    )
    ring = values[window][clear[window]]
    elongation = _elongation(rows, columns)
    if not ring.size:
        return TargetTraits(rows.size, float("nan"), float("nan"), elongation)
    contrast = float(values[box][inside].mean() - ring.mean())
    clutter = float(ring.std())
    scr = contrast / clutter if clutter else float(np.copysign(np.inf, contrast))
    return TargetTraits(rows.size, contrast, scr, elongation)


def _elongation(rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> float:
    spread = np.cov(np.stack([rows, columns]), bias=True) if rows.size > 1 else np.zeros((2, 2))
    small, large = np.linalg.eigvalsh(spread + np.eye(2) / 12)
    return float(np.sqrt(large / small))


@dataclass
class GroupScores:
    """What a detector does on the targets of one group. False alarms belong to no group.

    Attributes:
        targets, detected: true targets, and those with a match.
        pixels, covered: their pixels, and those that are predicted.
        overlap: sum over the targets of the IoU with their match, 0 for a missed one.
    """

    targets: int = 0
    detected: int = 0
    pixels: int = 0
    covered: int = 0
    overlap: float = 0.0

    def to_dict(self) -> dict[str, float | int]:
        """Counts and ratios: `pd`, `recall` of pixels, and `target_iou`, the mean IoU of a target."""
        return {
            "targets": self.targets,
            "detected": self.detected,
            "pd": self.detected / self.targets if self.targets else 0.0,
            "recall": self.covered / self.pixels if self.pixels else 0.0,
            "target_iou": self.overlap / self.targets if self.targets else 0.0,
        }


class GroupMetrics:
    """Collects `GroupScores` image by image.

    Args:
        convention: of the threshold, the connectivity and the matching; the default one if None.
    """

    def __init__(self, convention: MetricConvention | None = None) -> None:
        self.convention = convention if convention is not None else MetricConvention()
        self.scores: dict[Group, GroupScores] = {group: GroupScores() for group in GROUPS}

    def update(self, image: Map, prediction: Map, target: Map) -> list[Group]:
        """Add one image: gray levels, mask or probabilities, and true mask, all [H, W].

        Returns:
            The group of each true target, in raster order of their first pixel.

        Raises:
            DataError: the sizes differ.
        """
        mask, truth = binarize(prediction, self.convention.threshold), binarize(target)
        if mask.shape != truth.shape:
            raise DataError("prediction and mask differ in size", found=mask.shape, expected=truth.shape)
        true = find_regions(truth, self.convention.connectivity)
        predicted = find_regions(mask, self.convention.connectivity)
        partner = {m.target: m.predicted for m in count_regions(true, predicted, self.convention).matches}
        groups = [traits.group for traits in describe_targets(image, true)]
        boxes = ndimage.find_objects(true.labels)  # a look at the whole image for every target would be slow
        for number, (group, box) in enumerate(zip(groups, boxes, strict=True)):
            score, inside, area = self.scores[group], true.labels[box] == number + 1, int(true.areas[number])
            score.targets += 1
            score.pixels += area
            score.covered += int(np.count_nonzero(mask[box] & inside))
            if number in partner:
                match = partner[number]
                common = np.count_nonzero((predicted.labels[box] == match + 1) & inside)
                score.detected += 1
                score.overlap += common / (area + int(predicted.areas[match]) - common)
        return groups

    def compute(self) -> dict[Group, dict[str, float | int]]:
        """The scores of every group."""
        return {group: scores.to_dict() for group, scores in self.scores.items()}
