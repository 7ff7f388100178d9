"""Labels that fall as fast as they rise: the rule itself, what it leaves alone, and the bias it removes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from istd.errors import LabelError
from istd.labels import EvolutionSettings, evolve, evolve_both_ways

POINT = [[20, 20]]
SETTINGS = EvolutionSettings(max_area=0.2)  # of these small images


def square(radius: int, value: float = 1.0, dtype: Any = np.float64) -> np.ndarray:
    image = np.zeros((41, 41), dtype)
    image[20 - radius : 21 + radius, 20 - radius : 21 + radius] = value
    return image


def test_a_label_that_is_too_large_moves_half_way_down() -> None:
    label, pred = square(4), square(2, 0.9)
    evolved = evolve_both_ways(pred, label, POINT, SETTINGS)
    expected = (label + pred) / 2
    expected[20, 20] = 1.0
    np.testing.assert_allclose(evolved, expected, rtol=0, atol=1e-12)
    assert evolve(pred, label, POINT, SETTINGS)[20, 24] == pytest.approx(0.97)


def test_a_label_that_is_too_small_moves_as_the_published_rule_does() -> None:
    label, pred = square(1), square(3, 0.9)
    np.testing.assert_array_equal(
        evolve_both_ways(pred, label, POINT, SETTINGS), evolve(pred, label, POINT, SETTINGS)
    )


def test_a_target_that_is_not_predicted_only_decays() -> None:
    label = square(3)
    other = np.zeros_like(label)
    other[2:5, 2:5] = 0.95  # elsewhere, away from the core
    for pred in (np.zeros_like(label), other):
        evolved = evolve_both_ways(pred, label, POINT, SETTINGS)
        np.testing.assert_array_equal(evolved, evolve(pred, label, POINT, SETTINGS))
        assert evolved[20, 22] == pytest.approx(0.97)


def test_neighbours_are_judged_one_by_one() -> None:
    label = square(2)
    label[5:9, 5:9] = 1.0
    pred = square(1, 0.8)
    evolved = evolve_both_ways(pred, label, [[20, 20], [6, 6]], SETTINGS)
    assert evolved[20, 22] == pytest.approx(0.5)
    assert evolved[5, 5] == pytest.approx(0.97)


def test_what_is_left_of_old_labels_does_not_join_neighbours() -> None:
    """Between the two a label was once, which has since been halved often."""
    label = square(2)
    label[20, 23:30] = 1e-9
    label[18:23, 30:35] = 1.0
    evolved = evolve_both_ways(square(1, 0.8), label, [[20, 20], [20, 32]], SETTINGS)
    assert evolved[20, 22] == pytest.approx(0.5)
    assert evolved[19, 31] == pytest.approx(0.97)


def test_locked_pixels_stay() -> None:
    label = square(2)
    label[20, 22] = 0.9
    saturated = evolve_both_ways(square(1, 0.8), label, POINT, replace(SETTINGS, lock="saturated"))
    assert saturated[22, 22] == 1.0
    assert saturated[20, 22] == pytest.approx(0.45)
    points = evolve_both_ways(square(1, 0.8), label, [[20, 20], [22, 22]], SETTINGS)
    assert points[22, 22] == 1.0
    assert points[18, 18] == pytest.approx(0.5)


def test_predictions_that_fluctuate_without_bias_do_not_grow_labels() -> None:
    y, x = np.mgrid[:41, :41]
    outside = np.hypot(y - 20, x - 20) - 3.5
    truth = outside < 0
    sizes = {}
    for rule in (evolve, evolve_both_ways):
        random = np.random.default_rng(0)
        label = truth.astype(np.float64)
        for _ in range(30):
            # The radius is off by ±0.8 px, as often too large as too small.
            pred = 1 / (1 + np.exp(np.clip(3 * (outside + random.normal(0, 0.8)), -30, 30)))
            label = rule(pred, label, POINT, SETTINGS)
        sizes[rule] = (label > 0.5).sum() / truth.sum()
    assert sizes[evolve] > 1.3
    assert 0.75 < sizes[evolve_both_ways] < 1.3


def test_float32_stays_and_bad_maps_are_refused() -> None:
    assert evolve_both_ways(square(2, 0.9), square(3, dtype=np.float32), POINT).dtype == np.float32
    assert not evolve_both_ways(square(2, 0.9), np.zeros((41, 41)), []).any()
    with pytest.raises(LabelError, match="differ in size"):
        evolve_both_ways(np.zeros((4, 4)), np.zeros((5, 5)), [])
