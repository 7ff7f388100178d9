"""Choose the boundary fraction of the `levels` or `contrast` start from a few trusted masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, DataError, LabelError
from ._initial import initialize
from .contrast import ContrastSettings
from .levels import LevelsSettings

FRACTIONS: tuple[float, ...] = tuple(round(0.04 + 0.02 * step, 2) for step in range(34))  # 0.04 … 0.70

# IoU that an image loses, roughly, at a fraction 0.15 (contrast) or 0.1 (levels) off its best, squared
_LOSS_OFF_PRIOR = {ContrastSettings: 0.05 / 0.15**2, LevelsSettings: 0.05 / 0.1**2}
_METHOD = {ContrastSettings: "contrast", LevelsSettings: "levels"}
_Settings = ContrastSettings | LevelsSettings


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` found.

    Attributes:
        settings: the best settings.
        iou: intersection over union of their labels with the trusted masks, all pixels pooled.
        niou: mean over the images of the IoU of each.
        table: every setting tried, rows (fraction, noise_floor, iou, niou), in the order tried; the noise
            floor of `levels` is 0.
    """

    settings: _Settings
    iou: float
    niou: float
    table: tuple[tuple[float, float, float, float], ...]


def calibrate(
    images: Sequence[npt.NDArray[np.uint8]],
    masks: Sequence[npt.NDArray[Any]],
    points: Sequence[npt.ArrayLike],
    settings: _Settings | None = None,
    *,
    fractions: Sequence[float] = FRACTIONS,
    noise_floors: Sequence[float] | None = None,
    objective: Literal["iou", "niou"] = "niou",
    prior_images: float = 3.0,
) -> Calibration:
    """Search a grid for the settings whose labels agree best with trusted masks.

    The best fraction differs from target to target, so a few masks alone can point far off; a pull towards
    the fraction in `settings`, worth `prior_images` images, keeps a handful from doing harm and fades as they
    grow in number. Ties go to the setting closest to the prior. The figures found are of the same images and
    so optimistic: calibrate on training images and report on others.

    Args:
        images: uint8 [H, W] each; a handful is enough for one fraction.
        masks: bool or {0, 1} or {0, 255} [H, W] each, the whole truth of its image.
        points: integer [N, 2] each, rows (y, x).
        settings: which start, `LevelsSettings` or `ContrastSettings` (the default), and what is not searched.
        fractions: boundary fractions to try.
        noise_floors: noise floors of `contrast` to try; only the one in `settings` if None.
        objective: "niou" gives every image the same weight; "iou" pools the pixels, so that the largest
            targets decide.
        prior_images: how many images the prior is worth; 0 trusts the masks alone.

    Raises:
        DataError: no trusted mask with a target, counts that differ, or an unusable image or point.
        LabelError: a mask whose size differs from its image.
        ConfigError: an empty grid, an unknown objective, a negative prior, settings of another start, or
            noise floors of one that has none.
    """
    base = ContrastSettings() if settings is None else settings
    if type(base) not in _METHOD:
        raise ConfigError(
            "this start has no boundary fraction",
            found=type(base).__name__,
            expected="LevelsSettings or ContrastSettings",
        )
    if noise_floors is not None and not isinstance(base, ContrastSettings):
        raise ConfigError("only the contrast start has a noise floor", found=type(base).__name__)
    floors = (_noise_floor(base),) if noise_floors is None else tuple(noise_floors)
    if objective not in ("iou", "niou"):
        raise ConfigError("unknown objective of the calibration", found=objective, expected="iou or niou")
    if prior_images < 0:
        raise ConfigError("the prior cannot be worth fewer than no images", found=prior_images)
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

    tried: list[tuple[_Settings, float, float]] = []
    for floor in floors:
        for fraction in fractions:
            candidate: _Settings = replace(base, fraction=float(fraction))
            if isinstance(candidate, ContrastSettings):
                candidate = replace(candidate, noise_floor=float(floor))
            tried.append((candidate, *_agreement(images, truth, points, candidate)))
    pull = prior_images / len(images) * _LOSS_OFF_PRIOR[type(base)]

    def preference(row: tuple[_Settings, float, float]) -> tuple[float, float, float]:
        candidate, iou, niou = row
        off = abs(candidate.fraction - base.fraction)
        score = (iou if objective == "iou" else niou) - pull * off**2
        return -score, off, abs(_noise_floor(candidate) - _noise_floor(base))

    best, iou, niou = min(tried, key=preference)
    table = tuple((row.fraction, _noise_floor(row), one, many) for row, one, many in tried)
    return Calibration(best, iou, niou, table)


def _noise_floor(settings: _Settings) -> float:
    return settings.noise_floor if isinstance(settings, ContrastSettings) else 0.0


def _agreement(
    images: Sequence[npt.NDArray[np.uint8]],
    truth: Sequence[npt.NDArray[np.bool_]],
    points: Sequence[npt.ArrayLike],
    settings: _Settings,
) -> tuple[float, float]:
    """(pooled IoU, mean IoU per image) of the labels; an image where both are empty does not count."""
    both = np.zeros(len(images), np.int64)
    either = np.zeros(len(images), np.int64)
    for index, (image, mask, where) in enumerate(zip(images, truth, points, strict=True)):
        label = initialize(image, where, _METHOD[type(settings)], settings).mask > 0.5
        both[index] = np.count_nonzero(label & mask)
        either[index] = np.count_nonzero(label | mask)
    counted = either > 0
    return float(both.sum() / either.sum()), float((both[counted] / either[counted]).mean())
