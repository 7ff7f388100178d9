"""The few training images whose masks a run may look at: which ones, and what they set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data import ImageSet
from ..errors import DataError
from ..labels import calibrate, initialization_settings
from .config import TrainConfig
from .corpus import Corpus
from .seeding import derive_seed

Trusted = Mapping[int, npt.NDArray[np.float32]]
"""Position of a training image → its mask as a label, float32 {0, 1} [H, W]; in ascending order."""


def draw_trusted(corpus: Corpus, config: TrainConfig) -> Trusted:
    """The masks of `trusted_masks` training images with targets; the other images need none.

    The draw follows `val_seed` and the order of the training images, not the seed or the method of the run,
    so that runs compare. A larger number keeps the images of a smaller one. Masks are read in the order of
    the draw until there are enough, and no further.

    Raises:
        DataError: no training image has a mask, or fewer have one with a target than are asked for.
    """
    if config.trusted_masks == 0:
        return {}
    names, found, seen = corpus.train.names, {}, 0
    for number in np.random.default_rng(derive_seed(config.val_seed, "trusted")).permutation(len(names)):
        mask = corpus.dataset.read(names[number]).mask
        seen += mask is not None
        if mask is not None and mask.any():
            found[int(number)] = mask.astype(np.float32)
        if len(found) == config.trusted_masks:
            return dict(sorted(found.items()))
    if not seen:
        raise DataError(
            "trusted masks need masks",
            where=config.data,
            found="training images without masks",
            fix=f"add the masks of {config.trusted_masks} images, or train with --set trusted_masks=0",
        )
    raise DataError(
        "there are fewer training masks with a target than are to be trusted",
        where=config.data,
        found=len(found),
        expected=f"at least {config.trusted_masks}",
        fix="lower --set trusted_masks",
    )


def calibrated_settings(
    train: ImageSet, trusted: Trusted, method: str, settings: dict[str, Any] | None
) -> dict[str, Any] | None:
    """`settings` of the initialisation with the boundary fraction that suits the trusted masks.

    The other starts have nothing to calibrate, and without trusted masks nothing is.
    """
    if not trusted or method not in ("levels", "contrast"):
        return settings
    found = calibrate(
        [train.images.image(number).cpu().numpy() for number in trusted],
        list(trusted.values()),
        [train.points[number] for number in trusted],
        initialization_settings(method, settings),
    )
    fraction = dataclasses.asdict(found.settings)["fraction"]
    return {**(settings or {}), "fraction": fraction}
