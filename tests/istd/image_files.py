"""Images and masks as files, for tests of reading them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def one_target(size: tuple[int, int], y: int, x: int) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[y - 1 : y + 2, x - 1 : x + 2] = 255
    return mask
