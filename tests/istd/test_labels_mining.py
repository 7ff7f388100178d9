"""Hard-sample mining: the reference's choices, and a slow implementation with flood fills and sets."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from istd._regions import fill_holes
from istd.errors import ConfigError, DataError
from istd.labels import (
    REFERENCE_MINING,
    MiningSettings,
    compare_with_points,
    is_selected,
    merge_with_points,
    missed_bound,
)

Golden = Callable[[str], dict[str, Any]]
Pixels = frozenset[tuple[int, int]]
EIGHT = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
FOUR = [(0, 1), (1, 0), (0, -1), (-1, 0)]


def flood(
    start: set[tuple[int, int]], allowed: set[tuple[int, int]], steps: list[tuple[int, int]]
) -> set[tuple[int, int]]:
    seen, todo = set(start), list(start)
    while todo:
        y, x = todo.pop()
        for dy, dx in steps:
            there = (y + dy, x + dx)
            if there in allowed and there not in seen:
                seen.add(there)
                todo.append(there)
    return seen


def slow_regions(mask: np.ndarray) -> list[Pixels]:
    """Outermost 8-connected regions with everything that they enclose."""
    height, width = mask.shape
    everywhere = {(y, x) for y in range(-1, height + 1) for x in range(-1, width + 1)}
    set_pixels = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    outside = flood({(-1, -1)}, everywhere - set_pixels, FOUR)
    filled = everywhere - outside
    regions = []
    while filled:
        region = flood({min(filled)}, filled, EIGHT)
        regions.append(frozenset(region))
        filled -= region
    return regions


def slow_selected(points: np.ndarray, pred: np.ndarray, missed: float, false: float) -> bool:
    """The public rule: shares of missed points, and of predicted regions less met points."""
    wanted, found = slow_regions(points), slow_regions(pred)
    if not wanted:
        return True
    met = [region for region in wanted if any(region & other for other in found)]
    return (len(wanted) - len(met)) / len(wanted) <= missed and (len(found) - len(met)) / len(wanted) <= false


def test_mining_equals_the_reference(golden: Golden) -> None:
    case = golden("06_hard_samples")
    count = len(case["case_names"])
    for row, (missed, false) in enumerate(case["lose_alarm_grid"]):
        for i in range(count):
            points = np.argwhere(case[f"points_{i}"])
            found = is_selected(points, case[f"pred_{i}"], missed, false, REFERENCE_MINING)
            assert found == case["selected"][row, i], (case["case_names"][i], missed, false)
    for i in range(count):
        merged = merge_with_points(case[f"pred_{i}"], np.argwhere(case[f"points_{i}"]))
        assert merged.dtype == np.float32
        np.testing.assert_array_equal(merged * 255, case[f"merged_{i}"], err_msg=str(case["case_names"][i]))


def test_default_differs_from_the_reference_only_where_no_point_is_met(golden: Golden) -> None:
    case = golden("06_hard_samples")
    names = [str(name) for name in case["case_names"]]
    differ = set()
    for row, (missed, false) in enumerate(case["lose_alarm_grid"]):
        for i, name in enumerate(names):
            points = np.argwhere(case[f"points_{i}"])
            if is_selected(points, case[f"pred_{i}"], missed, false) != case["selected"][row, i]:
                differ.add((name, float(missed)))
    late = {float(m) for m, _ in case["lose_alarm_grid"] if m >= 1}
    assert differ == {(name, m) for name in ("missed", "point_just_outside") for m in late}


@pytest.mark.parametrize("seed", range(8))
def test_mining_equals_a_slow_one_on_random_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(15):
        height, width = rng.integers(2, 16, 2)
        pred = rng.random((height, width)) < rng.choice([0.2, 0.45, 0.7])
        annotated = rng.random((height, width)) < rng.choice([0.02, 0.1, 0.5])
        points = np.argwhere(annotated)
        regions = slow_regions(pred)
        np.testing.assert_array_equal(fill_holes(pred), _as_mask(regions, pred.shape))
        kept = [region for region in regions if any(region & point for point in slow_regions(annotated))]
        np.testing.assert_array_equal(
            merge_with_points(pred, points) > 0, _as_mask(kept, pred.shape) | annotated
        )
        counts = compare_with_points(points, pred)
        assert (counts.regions, counts.unmatched) == (len(regions), len(regions) - len(kept))
        for missed, false in ((0.2, 5.0), (0.5, 1.0), (1.0, 0.5)):
            found = is_selected(points, pred, missed, false, REFERENCE_MINING)
            assert found == slow_selected(annotated, pred, missed, false)


def _as_mask(regions: list[Pixels], shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for y, x in (pixel for region in regions for pixel in region):
        mask[y, x] = True
    return mask


def test_an_empty_prediction_never_enters_by_default() -> None:
    empty = np.zeros((20, 20), bool)
    for bound in (0.2, 1.0, 1.2):
        assert not is_selected([[5, 5]], empty, bound)
    assert is_selected([[5, 5]], empty, 1.0, settings=MiningSettings(unmatched="admit"))
    assert not is_selected([[5, 5]], empty, 0.99, settings=MiningSettings(unmatched="admit"))
    assert is_selected([], empty, 0.2)


def test_false_regions_are_counted_as_named() -> None:
    pred = np.zeros((30, 60), bool)
    pred[3:6, 3:12] = True  # covers two points
    for column in range(11):
        pred[20:22, 5 * column : 5 * column + 2] = True
    points = [[4, 4], [4, 10]]
    counts = compare_with_points(points, pred)
    assert (counts.points, counts.missed, counts.regions, counts.unmatched) == (2, 0, 12, 11)
    assert not is_selected(points, pred, 0.2)  # 11 / 2 > 5
    assert is_selected(points, pred, 0.2, settings=REFERENCE_MINING)  # (12 − 2) / 2 = 5


def test_the_bound_grows_to_one_at_the_end_of_mining() -> None:
    assert missed_bound(60, 300, 60) == pytest.approx(0.2)
    assert missed_bound(150, 300, 60) == pytest.approx(0.6)
    assert missed_bound(240, 300, 60) == pytest.approx(1.0)
    assert missed_bound(300, 300, 60) == pytest.approx(1.0)
    assert missed_bound(1, 300, 60) == pytest.approx(0.2)
    assert missed_bound(3, 3, 3) == 1.0
    bounds = [missed_bound(epoch, 300, 60) for epoch in range(60, 241)]
    assert all(a < b for a, b in itertools.pairwise(bounds))
    # The public code counts from one epoch earlier and ends above 1.
    assert missed_bound(240, 300, 60, REFERENCE_MINING) == pytest.approx(0.2 + 181 / 180 * 0.8)


def test_bad_input_is_named() -> None:
    pred = np.zeros((10, 12), bool)
    with pytest.raises(DataError, match="outside the image"):
        is_selected([[10, 0]], pred, 0.2)
    with pytest.raises(DataError, match="outside the image"):
        merge_with_points(pred, [[0, 12]])
    for wrong in (
        {"unmatched": "x"},
        {"false_regions": "x"},
        {"schedule": "x"},
        {"first_bound": 2.0},
        {"stop": 0.0},
    ):
        with pytest.raises(ConfigError):
            MiningSettings(**wrong)  # type: ignore[arg-type]
