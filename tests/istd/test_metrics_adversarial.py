"""Every convention against the slow count on masks made to be hard: touching, equal, nested, at borders."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics_slow import slow_distance, slow_matches, slow_regions, slow_targets

from istd.errors import ConfigError
from istd.metrics import CONVENTIONS, MetricConvention, named_convention, target_counts

HEIGHT, WIDTH = 11, 13

ALL = [
    MetricConvention(matching=matching, connectivity=connectivity, distance=distance, false_area=area)
    for matching in ("first", "nearest", "hungarian", "overlap")
    for connectivity in (4, 8)
    for distance, area in ((3.0, "unmatched"), (2.0, "by_value"))
]


def check(pred: np.ndarray, target: np.ndarray, convention: MetricConvention) -> None:
    counts = target_counts(pred, target, convention)
    found = (counts.targets, counts.detected, counts.predicted, counts.false_area)
    expected = slow_targets(pred, target, convention)
    if convention.matching != "hungarian":
        assert found == expected
        return
    # Several assignments can be equally good; their areas may then differ, their number and length do not.
    assert found[:3] == expected[:3]
    true = slow_regions(target, convention.connectivity)
    regions = slow_regions(pred, convention.connectivity)
    least = sum(slow_distance(true[t], regions[p]) for t, p in slow_matches(true, regions, convention))
    assert sum(match.distance for match in counts.matches) == pytest.approx(least, abs=1e-9)
    areas = [len(region) for region in regions]
    matched = [areas[match.predicted] for match in counts.matches]
    kept = sum(areas) - sum(matched)
    if convention.false_area == "by_value":
        kept = sum(area for area in areas if area not in matched)
    assert found[3] == kept


# Few sizes on a small canvas: equal areas, touching corners, borders and equal distances abound.
rectangles = st.tuples(
    st.integers(0, HEIGHT - 1), st.integers(0, WIDTH - 1), st.integers(1, 3), st.integers(1, 3)
)
scenes = st.lists(rectangles, max_size=4)


def draw(scene: list[tuple[int, int, int, int]]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for y, x, height, width in scene:
        mask[y : y + height, x : x + width] = True
    return mask


@settings(max_examples=150, deadline=None)
@given(scenes, scenes, st.sampled_from(ALL))
def test_blobs_equal_the_slow_count(true: Any, found: Any, convention: MetricConvention) -> None:
    check(draw(found), draw(true), convention)


@settings(max_examples=60, deadline=None)
@given(scenes, st.integers(-2, 2), st.integers(-2, 2), st.sampled_from(ALL))
def test_a_shifted_copy_equals_the_slow_count(true: Any, dy: int, dx: int, c: MetricConvention) -> None:
    mask = draw(true)
    check(np.roll(mask, (dy, dx), (0, 1)), mask, c)


def picture(*rows: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in row] for row in rows])


EMPTY, FULL = np.zeros((5, 6), bool), np.ones((5, 6), bool)
DOT = picture("......", "......", "..#...", "......", "......")
PAIRS = {
    "both empty": (EMPTY, EMPTY),
    "nothing found": (EMPTY, DOT),
    "all found": (FULL, DOT),
    "no target": (DOT, EMPTY),
    "all target": (DOT, FULL),
    "full on full": (FULL, FULL),
    "two at one distance": (picture("#...#"), picture("..#..")),
    "diagonal chain": (np.eye(5, dtype=bool), np.eye(5, dtype=bool)[::-1].copy()),
    "checkerboard": (np.indices((5, 6)).sum(0) % 2 == 0, DOT),
    "equal areas": (picture("#..#..#"), picture("#......")),
    "ring around a dot": (picture("###", "#.#", "###"), picture("...", ".#.", "...")),
    "merged": (picture("#######"), picture("##...##")),
    "split": (picture("##...##"), picture("#######")),
    "corners": (picture("#..#", "....", "#..#"), picture("#..#", "....", "#..#")),
    "one row": (picture("#.##.#"), picture("##.#.#")),
    "one pixel": (np.ones((1, 1), bool), np.ones((1, 1), bool)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_hard_cases_equal_the_slow_count(name: str) -> None:
    for (pred, target), convention in itertools.product([PAIRS[name], PAIRS[name][::-1]], ALL):
        check(pred, target, convention)


def test_a_tie_goes_to_the_first_in_raster_order() -> None:
    pred, target = PAIRS["two at one distance"]
    for matching in ("first", "nearest"):
        convention = MetricConvention(matching=matching)  # type: ignore[arg-type]
        assert target_counts(pred, target, convention).matches[0].predicted == 0


def test_conventions_have_names() -> None:
    assert named_convention("default") == MetricConvention()
    changed = named_convention("dnanet", connectivity=4, threshold=None, distance=2.5)
    assert (changed.false_area, changed.connectivity, changed.distance) == ("by_value", 4, 2.5)
    assert changed.threshold == 0.5
    with pytest.raises(ConfigError, match="dnanet"):
        named_convention("magic")
    pred, target = PAIRS["equal areas"]
    areas = {name: target_counts(pred, target, c).false_area for name, c in CONVENTIONS.items()}
    assert areas == {"default": 2, "dnanet": 0, "nearest": 2, "hungarian": 2, "overlap": 2}
