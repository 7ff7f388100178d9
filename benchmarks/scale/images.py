"""Many images that cost next to nothing to make: one noise, shifted, with two bright spots in each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from istd.data import Dataset, Record

_SPOT = 2  # pixels from its centre to its border
_MARGIN = 12


class GeneratedImages(Dataset):
    """`count` images: 60 % to train on, 20 % each for validation and test, every one with two targets.

    Args:
        count: how many; at least 5.
        size: (height, width) in pixels.
    """

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        names = [f"image_{number:07d}" for number in range(count)]
        train, val = int(0.6 * count), int(0.8 * count)
        splits = {"train": names[:train], "val": names[train:val], "test": names[val:]}
        super().__init__(Path("generated"), "generated", splits)
        rng = np.random.default_rng(0)
        # A detector's noise over a slope: it compresses about as well as a real image.
        slope = np.linspace(60, 120, size[0])[:, None]
        self._noise = np.clip(slope + rng.normal(0, 3, size), 0, 140).astype(np.uint8)
        rows, columns = np.mgrid[-_SPOT : _SPOT + 1, -_SPOT : _SPOT + 1]
        self._spot = (100 * np.exp(-(rows**2 + columns**2) / 3)).astype(np.uint8)

    def _read(self, name: str) -> Record:
        number = int(name.removeprefix("image_"))
        rng = np.random.default_rng(number)
        image = np.roll(self._noise, 37 * number, axis=1)
        mask = np.zeros(image.shape, np.bool_)
        height, width = image.shape
        points = np.stack(
            [rng.integers(_MARGIN, height - _MARGIN, 2), rng.integers(_MARGIN, width - _MARGIN, 2)], axis=1
        )
        for y, x in points.tolist():
            image[y - _SPOT : y + _SPOT + 1, x - _SPOT : x + _SPOT + 1] += self._spot
            mask[y - 1 : y + 2, x - 1 : x + 2] = True
        return Record(name, image, mask, points.astype(np.int64))
