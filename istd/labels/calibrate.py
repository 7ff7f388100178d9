"""Choose the boundary fraction of the `contrast` start from a few trusted masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, DataError, LabelError
from ._initial import initialize
from .contrast import ContrastSettings

FRACTIONS: tuple[float, ...] = tuple(round(0.04 + 0.02 * step, 2) for step in range(34))  # 0.04 … 0.70


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` found.

    Attributes:
        settings: the best settings.
        iou: intersection over union of their labels with the trusted masks, all pixels pooled.
        niou: mean over the images of the IoU of each.
        table: every setting tried, rows (fraction, noise_floor, iou, niou), in the order tried.
    """

    settings: ContrastSettings
    iou: float
    niou: float
    table: tuple[tuple[float, float, float, float], ...]


def calibrate(
    images: Sequence[npt.NDArray[np.uint8]],
    masks: Sequence[npt.NDArray[Any]],
    points: Sequence[npt.ArrayLike],
    settings: ContrastSettings | None = None,
    *,
    fractions: Sequence[float] = FRACTIONS,
    noise_floors: Sequence[float] | None = None,
    objective: Literal["iou", "niou"] = "iou",
) -> Calibration:
    """Search a grid for the contrast settings whose labels agree best with trusted masks.

    A figure measured on the same images is optimistic, the more so the fewer they are: calibrate on
    training images and report on others. Ties go to the setting closest to the one in `settings`.

    Args:
        images: uint8 [H, W] each; a handful is enough for one fraction.
        masks: bool or {0, 1} or {0, 255} [H, W] each, the whole truth of its image.
        points: integer [N, 2] each, rows (y, x).
        settings: everything that is not searched; the defaults if None.
        fractions: boundary fractions to try.
        noise_floors: noise floors to try; only the one in `settings` if None.
        objective: "iou" pools the pixels of all images, "niou" gives every image the same weight.

    Raises:
        DataError: no trusted mask with a target, counts that differ, or an unusable image or point.
        LabelError: a mask whose size differs from its image.
        ConfigError: an empty grid or an unknown objective.
    """
    base = settings if settings is not None else ContrastSettings()
    floors = (base.noise_floor,) if noise_floors is None else tuple(noise_floors)
    if objective not in ("iou", "niou"):
        raise ConfigError("unknown objective of the calibration", found=objective, expected="iou or niou")
    if not fractions or not floors:
        raise ConfigError(
            "the calibration grid is empty", expected="at least one fraction and one noise floor"
        )
    if not len(images) == len(masks) == len(points):
        raise DataError(
            "images, masks and points differ in number", found=(len(images), len(masks), len(points))
        )
    truth = [np.asarray(mask) != 0 for mask in masks]
    for index, (image, mask) in enumerate(zip(images, truth, strict=True)):
        if image.shape != mask.shape:
            raise LabelError(
                f"mask {index} differs in size from its image", found=mask.shape, expected=image.shape
            )
    if not any(mask.any() for mask in truth):
        raise DataError(
            "no trusted mask has a target", fix="give at least one mask with a target and its point"
        )

    tried: list[tuple[ContrastSettings, float, float]] = []
    for floor in floors:
        for fraction in fractions:
            candidate = replace(base, fraction=float(fraction), noise_floor=float(floor))
            tried.append((candidate, *_agreement(images, truth, points, candidate)))
    column = 1 if objective == "iou" else 2

    def preference(row: tuple[ContrastSettings, float, float]) -> tuple[float, float, float]:
        away = (abs(row[0].fraction - base.fraction), abs(row[0].noise_floor - base.noise_floor))
        return (-float(row[column]), *away)  # type: ignore[arg-type]

    best, iou, niou = min(tried, key=preference)
    table = tuple((row.fraction, row.noise_floor, one, many) for row, one, many in tried)
    return Calibration(best, iou, niou, table)


def _agreement(
    images: Sequence[npt.NDArray[np.uint8]],
    truth: Sequence[npt.NDArray[np.bool_]],
    points: Sequence[npt.ArrayLike],
    settings: ContrastSettings,
) -> tuple[float, float]:
    """(pooled IoU, mean IoU per image) of the labels; an image where both are empty does not count."""
    both = np.zeros(len(images), np.int64)
    either = np.zeros(len(images), np.int64)
    for index, (image, mask, where) in enumerate(zip(images, truth, points, strict=True)):
        label = initialize(image, where, "contrast", settings).mask > 0
        both[index] = np.count_nonzero(label & mask)
        either[index] = np.count_nonzero(label | mask)
    counted = either > 0
    return float(both.sum() / either.sum()), float((both[counted] / either[counted]).mean())
