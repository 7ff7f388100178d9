from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from istd.data import centroid_points, read_gray, read_mask


def test_one_point_per_component_at_its_centroid() -> None:
    mask = np.zeros((12, 14), bool)
    mask[1:4, 2:7] = True
    mask[8, 9] = mask[9, 10] = mask[10, 11] = True
    assert centroid_points(mask).tolist() == [[2, 4], [9, 10]]
    assert centroid_points(mask, connectivity=4).tolist() == [[2, 4], [8, 9], [9, 10], [10, 11]]


def test_halves_go_to_the_even_pixel() -> None:
    mask = np.zeros((10, 10), bool)
    mask[0:2, 3:5] = True  # centroid (0.5, 3.5)
    mask[5:7, 6:8] = True  # centroid (5.5, 6.5)
    assert centroid_points(mask).tolist() == [[0, 4], [6, 6]]


def test_a_centroid_off_the_target_moves_to_its_nearest_pixel() -> None:
    ring = np.zeros((11, 11), np.uint8)
    ring[2:9, 2:9] = 1
    ring[3:8, 3:8] = 0
    (point,) = centroid_points(ring)
    assert ring[tuple(point)] == 1
    assert np.abs(point - 5).sum() == 3
    # A second target sits on the first one's centroid: the point must not land there.
    ring[5, 5] = 1
    first, second = centroid_points(ring)
    assert tuple(first) != (5, 5)
    assert second.tolist() == [5, 5]


def test_no_target_no_point() -> None:
    points = centroid_points(np.zeros((5, 5), bool))
    assert points.shape == (0, 2)
    assert points.dtype == np.int64


@pytest.mark.parametrize(("shape", "connectivity"), [((4, 4, 3), 8), ((4, 4), 6)])
def test_wrong_arguments(shape: tuple[int, ...], connectivity: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        centroid_points(np.zeros(shape), connectivity)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_every_component_has_exactly_one_point_on_it(mask: np.ndarray) -> None:
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    hit = [labels[y, x] for y, x in centroid_points(mask)]
    assert sorted(hit) == list(range(1, count))


def test_points_and_gray_levels_of_the_golden_images(
    golden: Callable[[str], dict[str, Any]], sirst_root: Path
) -> None:
    case = golden("01_label_init")
    for i, name in enumerate(case["names"]):
        stem = str(name).removesuffix(".png")
        image = read_gray(sirst_root / "images" / f"{stem}.png")
        np.testing.assert_array_equal(image, case[f"img_{i}"])
        points = centroid_points(read_mask(sirst_root / "masks" / f"{stem}_pixels0.png"))
        assert {tuple(p) for p in points} == {tuple(p) for p in np.argwhere(case[f"points_{i}"] == 255)}
