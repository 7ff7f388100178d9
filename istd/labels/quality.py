"""How good the labels of a store are against masks, version by version."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .store import LabelStore


@dataclass(frozen=True)
class VersionQuality:
    """The labels of one version, cut at 0.5, against the masks, pixel by pixel over all images.

    Attributes:
        number: of the version.
        epoch: after which epoch it was made.
        changed, entered, left: how many labels it changed, and how many images it let in and out of the pool.
        pool_size: how many images train.
        iou, precision, recall: over all images that have masks; None where there is nothing to divide by.
        pool_iou: the IoU over those that train.
        note: what the program wrote about the version.
    """

    number: int
    epoch: int
    changed: int
    entered: int
    left: int
    pool_size: int
    iou: float | None
    precision: float | None
    recall: float | None
    pool_iou: float | None
    note: str


def quality_by_version(
    store: LabelStore, masks: Iterable[tuple[str, npt.NDArray[np.bool_]]] = ()
) -> list[VersionQuality]:
    """What each version of a store changed, and how good its labels are.

    Only labels that changed are read, and of the masks only the target pixels are kept.

    Args:
        store: the labels.
        masks: pairs of a name and its mask, bool [H, W]; images without one do not count, nor do trusted
            ones, whose labels are their masks. Without any, only what changed is told.

    Returns:
        One entry for each version, in their order.
    """
    trusted = set(store.settings.get("trusted_masks", ()))
    truth = {name: np.flatnonzero(mask) for name, mask in masks if name not in trusted}
    known = np.array([name in truth for name in store.names])
    # For each image: pixels in label and mask, in the label, in the mask.
    counts = np.zeros((len(store.names), 3), np.int64)
    position = {name: index for index, name in enumerate(store.names)}
    for name, pixels in truth.items():
        counts[position[name], 2] = len(pixels)
    rows = []
    for version in store.history():
        changed = [name for name in version.changed if name in truth]
        for name, label in zip(changed, store.labels(version.number, changed), strict=True):
            found = np.flatnonzero(label > 0.5)
            common = len(np.intersect1d(found, truth[name], assume_unique=True))
            counts[position[name], :2] = common, len(found)
        common, found, true = counts[known].sum(0).tolist()
        in_pool = counts[known & store.pool(version.number)].sum(0).tolist()
        rows.append(
            VersionQuality(
                number=version.number,
                epoch=version.epoch,
                changed=len(version.changed),
                entered=len(version.entered),
                left=len(version.left),
                pool_size=version.pool_size,
                iou=_ratio(common, found + true - common),
                precision=_ratio(common, found),
                recall=_ratio(common, true),
                pool_iou=_ratio(in_pool[0], in_pool[1] + in_pool[2] - in_pool[0]),
                note=version.note,
            )
        )
    return rows


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
