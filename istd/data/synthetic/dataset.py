"""A data set of synthetic scenes, made when they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import ConfigError
from .._record import Record
from ..dataset import SPLITS, Dataset
from .scene import Scene, SceneSettings, make_scene


class SyntheticDataset(Dataset):
    """Seeded scenes with exact masks and points, named like train_00000.

    Image i of a split depends on (seed, split, i, size, settings) alone: not on the order of reading, nor on
    how many images there are. `pack` it to keep the images.

    Args:
        num_train: images in the split 'train'.
        num_val: images in the split 'val'.
        num_test: images in the split 'test'.
        size: (height, width) in pixels, at least 32 each.
        seed: a number from 0 on.
        settings: what the scenes are made of; the defaults if None.

    Attributes:
        size: as given.
        seed: as given.
        settings: as given.

    Raises:
        ConfigError: no image at all, a number below 0, or a size that is too small.
    """

    def __init__(
        self,
        num_train: int = 64,
        num_val: int = 16,
        num_test: int = 16,
        size: tuple[int, int] = (256, 256),
        seed: int = 0,
        settings: SceneSettings | None = None,
    ) -> None:
        counts = dict(zip(SPLITS, (num_train, num_val, num_test), strict=True))
        if min(counts.values()) < 0 or sum(counts.values()) == 0 or seed < 0 or min(size) < 32:
            raise ConfigError(
                "no synthetic data set can be made of these numbers",
                found={**counts, "size": size, "seed": seed},
                expected="at least one image, a size of at least 32 × 32 pixels, and a seed from 0 on",
            )
        self.size = size
        self.seed = seed
        self.settings = settings or SceneSettings()
        names = {split: tuple(f"{split}_{i:05d}" for i in range(count)) for split, count in counts.items()}
        super().__init__(Path("synthetic"), "synthetic", names)

    def scene(self, name: str) -> Scene:
        """The scene `name` with all that is known about it; see `Scene`."""
        split, _, number = name.rpartition("_")
        rng = np.random.default_rng([self.seed, SPLITS.index(split), int(number)])
        return make_scene(rng, self.size, self.settings)

    def _read(self, name: str) -> Record:
        scene = self.scene(name)
        return Record(name, scene.image, scene.mask, scene.points)
