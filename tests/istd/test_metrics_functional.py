"""The metrics against the reference's figures and against a plain, slow implementation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics_slow import slow_distance, slow_matches, slow_regions, slow_targets

from istd.errors import ConfigError, DataError
from istd.metrics import DNANET, MetricConvention, PixelCounts, functional, pixel_counts, target_counts

Golden = Callable[[str], dict[str, Any]]


def assert_targets(pred: np.ndarray, target: np.ndarray, c: MetricConvention) -> None:
    counts = target_counts(pred, target, c)
    found = (counts.targets, counts.detected, counts.predicted, counts.false_area)
    if c.matching == "hungarian":
        expected = slow_targets(pred, target, c)
        assert found[:3] == expected[:3]
        true, regions = slow_regions(target, c.connectivity), slow_regions(pred, c.connectivity)
        least = sum(slow_distance(true[t], regions[p]) for t, p in slow_matches(true, regions, c))
        assert sum(match.distance for match in counts.matches) == pytest.approx(least, abs=1e-9)
    else:
        assert found == slow_targets(pred, target, c)


CONVENTIONS = [
    MetricConvention(matching=matching, connectivity=connectivity, distance=distance, false_area=false_area)  # type: ignore[arg-type]
    for matching in ("first", "nearest", "overlap")
    for connectivity, distance, false_area in ((8, 3.0, "unmatched"), (4, 2.0, "by_value"))
]


# --- the reference ---------------------------------------------------------------------------------------


def test_figures_equal_the_reference(golden: Golden) -> None:
    case = golden("05_metrics")
    all_pixels, all_targets = [], []
    for i, name in enumerate(case["case_names"]):
        expected = dict(zip(case["columns"].tolist(), case["values"][i].tolist(), strict=True))
        pixels = [pixel_counts(p, t) for p, t in zip(case[f"pred_{i}"], case[f"target_{i}"], strict=True)]
        targets = [target_counts(p, t) for p, t in zip(case[f"pred_{i}"], case[f"target_{i}"], strict=True)]
        counts = {
            "inter": sum(c.tp for c in pixels),
            "union": sum(c.union for c in pixels),
            "all_pixel": sum(c.pixels for c in targets),
            "n_targets": sum(c.targets for c in targets),
            "pd_count": sum(c.detected for c in targets),
            "fa_pixels": sum(c.false_area for c in targets),
        }
        assert counts == {key: expected[key] for key in counts}, name
        whole = PixelCounts(*(sum(getattr(c, key) for c in pixels) for key in ("tp", "fp", "fn", "tn")))
        ratios = {
            "pixAcc": functional.recall(whole),
            "IoU": functional.iou(whole),
            "nIoU": functional.niou(pixels),
            "PD": functional.probability_of_detection(targets),
            "FA": functional.false_alarm_rate(targets),
        }
        assert ratios == pytest.approx({key: expected[key] for key in ratios}, abs=1e-12, rel=0), name
        np.testing.assert_allclose(
            [functional.iou(c) for c in pixels], case[f"per_sample_iou_{i}"], atol=1e-12
        )
        all_pixels += pixels
        all_targets += targets
    whole = PixelCounts(*(sum(getattr(c, key) for c in all_pixels) for key in ("tp", "fp", "fn", "tn")))
    cumulative = [
        functional.iou(whole),
        functional.niou(all_pixels),
        functional.false_alarm_rate(all_targets),
        functional.probability_of_detection(all_targets),
    ]
    np.testing.assert_allclose(cumulative, case["cumulative_IoU_nIoU_FA_PD"], atol=1e-12, rtol=0)


# --- random and adversarial masks ------------------------------------------------------------------------


@pytest.mark.parametrize("convention", CONVENTIONS, ids=lambda c: f"{c.matching}-{c.connectivity}")
@pytest.mark.parametrize("seed", range(4))
def test_targets_equal_a_slow_count_on_random_masks(convention: MetricConvention, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for density in (0.03, 0.15, 0.4):
        shape = tuple(rng.integers(1, 24, 2))
        target = rng.random(shape) < density
        shifted = np.roll(target, tuple(rng.integers(-3, 4, 2)), (0, 1))
        assert_targets(rng.random(shape) < density, target, convention)
        assert_targets(shifted, target, convention)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 13)), max_size=4, unique=True),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 13)), max_size=4, unique=True),
    st.sampled_from([1.5, 3.0, 6.0]),
)
def test_hungarian_equals_every_assignment(
    true: list[tuple[int, int]], found: list[tuple[int, int]], distance: float
) -> None:
    masks = np.zeros((2, 12, 14), bool)
    for mask, points in zip(masks, (true, found), strict=True):
        for point in points:
            mask[point] = True
    assert_targets(masks[1], masks[0], MetricConvention(matching="hungarian", distance=distance))


def masks_from(*rows: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in row] for row in rows])


def test_regions_are_taken_in_raster_order_of_their_first_pixel() -> None:
    # Both predictions are within 3 px of the target. The right one begins a row earlier, so it is the first.
    pred = masks_from(".....#", "#....#", "#.....")
    target = masks_from("......", "..##..", "......")
    first = target_counts(pred, target, MetricConvention(matching="first"))
    assert first.matches[0].predicted == 0
    assert first.matches[0].distance == pytest.approx(math.hypot(0.5, 2.5))
    assert target_counts(pred[:, ::-1], target[:, ::-1]).matches[0].distance == pytest.approx(
        math.hypot(0.5, 2.5)
    )


def test_matching_rules_differ_where_they_should() -> None:
    pred = masks_from("..........", "#...#.....", "..........")
    target = masks_from("..........", ".#..#.....", "..........")
    # Greedy: target 0 at x=1 takes prediction 0 (x=0), target 1 takes prediction 1.
    assert [m[:2] for m in target_counts(pred, target).matches] == [(0, 0), (1, 1)]
    far = masks_from("..........", "..#...#...", "..........")
    near = masks_from("..........", "....#..#..", "..........")
    # near/first: target x=2 takes prediction x=4 only; target x=6 is left with x=7.
    assert [m[:2] for m in target_counts(near, far).matches] == [(0, 0), (1, 1)]
    both = masks_from("#.#.......")
    one = masks_from("..#.......")
    assert target_counts(both, one).matches[0].predicted == 0
    assert target_counts(both, one, MetricConvention(matching="nearest")).matches[0].predicted == 1
    # Greedy by nearness blocks the second target; the assignment serves both.
    true, found = masks_from(".#..#.....", ".........."), masks_from("..........", "...#....#.")[:, ::1]
    true = masks_from("...#.#....")
    found = masks_from(".#..#.....")
    nearest = target_counts(found, true, MetricConvention(matching="nearest", distance=2.5))
    assert nearest.detected == 1
    assert target_counts(found, true, MetricConvention(matching="hungarian", distance=2.5)).detected == 2


def test_overlap_ignores_distance_and_needs_a_shared_pixel() -> None:
    target = np.zeros((5, 20), bool)
    target[2, :] = True
    pred = np.zeros((5, 20), bool)
    pred[2, 0] = True
    overlap = MetricConvention(matching="overlap")
    assert target_counts(pred, target).detected == 0
    assert target_counts(pred, target, overlap).detected == 1
    beside = np.zeros_like(pred)
    beside[1, 10] = True
    assert target_counts(beside, target).detected == 1
    assert target_counts(beside, target, overlap).detected == 0


def test_equal_areas_vanish_in_the_dnanet_family_only() -> None:
    target = np.zeros((20, 20), bool)
    target[2:4, 2:4] = True
    pred = target.copy()
    pred[12:14, 12:14] = True  # a false alarm of the same area
    pred[17, 17] = True
    assert target_counts(pred, target).false_area == 5
    assert target_counts(pred, target, DNANET).false_area == 1


def test_a_distance_of_exactly_the_limit_is_no_match() -> None:
    target, pred = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    target[4, 1] = pred[4, 4] = True
    assert target_counts(pred, target).detected == 0
    assert target_counts(pred, target, MetricConvention(distance=3.0001)).detected == 1


@pytest.mark.parametrize(("rule", "expected"), [("zero", 0.5), ("one", 2.5 / 3), ("skip", 0.75)])
def test_empty_images_count_as_the_convention_says(rule: Any, expected: float) -> None:
    images = [PixelCounts(1, 1, 0, 8), PixelCounts(0, 0, 0, 10), PixelCounts(4, 0, 0, 6)]
    assert functional.niou(images, rule) == pytest.approx(expected)
    assert functional.niou([images[1]], rule) == (1.0 if rule == "one" else 0.0)
    assert functional.niou([], rule) == 0.0


def test_ratios_of_nothing_are_zero() -> None:
    empty = np.zeros((7, 5), bool)
    pixels, targets = pixel_counts(empty, empty), target_counts(empty, empty)
    assert (pixels.tn, pixels.total) == (35, 35)
    for ratio in (functional.iou, functional.precision, functional.recall, functional.f1):
        assert ratio(pixels) == 0.0
    assert functional.probability_of_detection([targets]) == 0.0
    assert functional.false_alarm_rate([]) == 0.0


def test_pixel_ratios_on_a_known_case() -> None:
    pred, target = masks_from("##.", "#.."), masks_from("#..", "##.")
    counts = pixel_counts(pred, target)
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == (2, 1, 1, 2)
    assert functional.iou(counts) == 0.5
    assert (
        functional.precision(counts)
        == functional.recall(counts)
        == functional.f1(counts)
        == pytest.approx(2 / 3)
    )


def test_every_kind_of_map_is_understood() -> None:
    target = masks_from("#..", "##.")
    probabilities = np.where(target, 0.51, 0.5).astype(np.float32)
    expected = pixel_counts(target, target)
    for pred in (
        probabilities,
        torch.from_numpy(probabilities),
        target.astype(np.int64),
        target.astype(np.uint8) * 255,
    ):
        assert pixel_counts(pred, target) == expected
        assert pixel_counts(pred, torch.from_numpy(target.astype(np.float64))) == expected
    assert pixel_counts(torch.from_numpy(probabilities).requires_grad_(), target) == expected
    assert pixel_counts(probabilities, target, threshold=0.6).tp == 0
    assert target_counts(probabilities[None, None], target[None, None]) == target_counts(target, target)


def test_bad_input_is_named() -> None:
    a = np.zeros((4, 5), bool)
    with pytest.raises(DataError, match="differ in size"):
        pixel_counts(a, a.T)
    with pytest.raises(DataError, match="image by image"):
        target_counts(np.zeros((2, 4, 5), bool), np.zeros((2, 4, 5), bool))
    for wrong in (
        {"matching": "x"},
        {"connectivity": 6},
        {"empty_niou": "x"},
        {"distance": 0.0},
        {"threshold": 1.0},
    ):
        with pytest.raises(ConfigError):
            MetricConvention(**wrong)  # type: ignore[arg-type]


def test_the_convention_travels_as_plain_values() -> None:
    convention = MetricConvention(matching="hungarian", threshold=0.3, empty_niou="skip")
    assert MetricConvention.from_dict(convention.to_dict()) == convention
    assert set(convention.to_dict()) == {
        "threshold",
        "connectivity",
        "distance",
        "matching",
        "empty_niou",
        "false_area",
    }
    with pytest.raises(ConfigError, match="colour"):
        MetricConvention.from_dict({"colour": "red"})
