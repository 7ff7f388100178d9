"""What the tests of the label store share: a small store whose labels follow from (version, image)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from istd.labels import LabelStore

SIZES = [(20, 30), (16, 16), (25, 12)]
NAMES = ["a.png", "b", "ç/d"]


def label(version: int, image: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng([version, image]).random(size, dtype=np.float32)


def sparse_label(seed: int, size: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.random(size, dtype=np.float32)
    return np.where(rng.random(size) < 0.1, values, np.float32(0)).astype(np.float32)


def new_store(folder: Path) -> LabelStore:
    return LabelStore.create(
        folder / "labels.h5",
        NAMES,
        [label(0, i, size) for i, size in enumerate(SIZES)],
        pool=np.array([True, False, True]),
        settings={"method": "contrast", "fraction": 0.3, "nested": {"a": [1, 2]}},
        note="first",
    )


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))
