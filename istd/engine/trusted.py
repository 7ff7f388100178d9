"""The few training images whose masks a run may look at: which ones, and what they set."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ..data import ImageSet
from ..errors import DataError
from ..labels import calibrate, initialization_settings
from .config import TrainConfig
from .seeding import derive_seed


def draw_trusted(train: ImageSet, config: TrainConfig) -> tuple[int, ...]:
    """The positions of `trusted_masks` training images with targets, in ascending order.

    The draw follows `val_seed` and the order of the training images, not the seed or the method of the run,
    so that runs compare. A larger number keeps the images of a smaller one.

    Raises:
        DataError: the training split has no masks, or fewer with a target than are asked for.
    """
    if config.trusted_masks == 0:
        return ()
    masks = train.masks
    if masks is None:
        raise DataError(
            "trusted masks need masks",
            where=config.data,
            found="training images without masks",
            fix="train with --set trusted_masks=0, or add the masks",
        )
    order = np.random.default_rng(derive_seed(config.val_seed, "trusted")).permutation(len(train.names))
    usable = [int(number) for number in order if bool((masks.image(int(number)) > 0).any())]
    if len(usable) < config.trusted_masks:
        raise DataError(
            "there are fewer training masks with a target than are to be trusted",
            where=config.data,
            found=len(usable),
            expected=f"at least {config.trusted_masks}",
            fix="lower --set trusted_masks",
        )
    return tuple(sorted(usable[: config.trusted_masks]))


def trusted_label(train: ImageSet, number: int) -> np.ndarray:
    """The mask of a trusted image as its label, float32 {0, 1} [H, W]."""
    assert train.masks is not None
    return (train.masks.image(number) > 0).cpu().numpy().astype(np.float32)


def calibrated_settings(
    train: ImageSet, trusted: tuple[int, ...], method: str, settings: dict[str, Any] | None
) -> dict[str, Any] | None:
    """`settings` of the initialisation with the boundary fraction that suits the trusted masks.

    The other starts have nothing to calibrate, and without trusted masks nothing is.
    """
    if not trusted or method not in ("levels", "contrast"):
        return settings
    found = calibrate(
        [train.images.image(number).cpu().numpy() for number in trusted],
        [trusted_label(train, number) for number in trusted],
        [train.points[number] for number in trusted],
        initialization_settings(method, settings),
    )
    fraction = dataclasses.asdict(found.settings)["fraction"]
    return {**(settings or {}), "fraction": fraction}
