"""Label evolution: the reference's outputs, and a slow implementation of the formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from istd.errors import ConfigError, DataError, LabelError
from istd.labels import EvolutionSettings, evolve, from_uint8, kept_regions, to_uint8

Golden = Callable[[str], dict[str, Any]]
SATURATED = EvolutionSettings(lock="saturated")
NO_POINTS = np.zeros((0, 2), np.int64)


def test_evolution_equals_the_reference(golden: Golden) -> None:
    case = golden("02_update_gt")
    for i, name in enumerate(case["case_names"]):
        pred, label = case[f"pred_{i}"], from_uint8(case[f"prev_u8_{i}"])
        out = evolve(pred, label, NO_POINTS, SATURATED)
        assert out.dtype == np.float64
        np.testing.assert_allclose(out, case[f"out_{i}"], atol=1e-12, rtol=0, err_msg=str(name))
        np.testing.assert_array_equal(to_uint8(out), case[f"out_u8_png_{i}"], err_msg=str(name))
        single = evolve(pred, label.astype(np.float32), NO_POINTS, SATURATED)
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, case[f"out_{i}"], atol=1e-6, rtol=0, err_msg=str(name))


def test_five_steps_through_eight_bits_equal_the_reference(golden: Golden) -> None:
    case = golden("02_update_gt")
    for i, name in enumerate(case["case_names"]):
        stored = case[f"prev_u8_{i}"]
        for _ in range(5):
            stored = to_uint8(evolve(case[f"pred_{i}"], from_uint8(stored), NO_POINTS, SATURATED))
        np.testing.assert_array_equal(stored, case[f"out_u8_after5_{i}"], err_msg=str(name))


def slow_evolution(pred: np.ndarray, label: np.ndarray, s: EvolutionSettings) -> np.ndarray:
    """DESIGN's formula, one pixel at a time."""
    height, width = label.shape
    ring = np.ones((3, 3)) if s.connectivity == 8 else None
    regions, count = ndimage.label(label > s.label_threshold, ring)
    keep = np.zeros(label.shape, bool)
    for region in range(1, count + 1):
        rows, columns = np.nonzero(regions == region)
        cy, cx = int(rows.mean()), int(columns.mean())
        near = [
            (y, x)
            for y in range(height)
            for x in range(width)
            if abs(y - cy) <= s.window // 2 and abs(x - cx) <= s.window // 2
        ]
        m = max(pred[y, x] for y, x in near)
        bound = m * s.t_b + s.k * (m - m * s.t_b) * (len(rows) / (s.max_area * (height * width)))
        above = np.zeros(label.shape, bool)
        for y, x in near:
            above[y, x] = pred[y, x] > bound
        parts, number = ndimage.label(above, ring)
        for part in range(1, number + 1):
            inside = np.argwhere(parts == part)
            if (np.abs(inside - (cy, cx)).max(axis=1) <= s.core // 2).any():
                keep |= parts == part
    out = label * s.decay
    for y, x in np.argwhere(keep):
        out[y, x] = (label[y, x] + pred[y, x]) / 2
    if s.lock == "saturated":
        out[label == 1] = 1
    return out


@pytest.mark.parametrize("seed", range(6))
def test_evolution_equals_a_slow_one_on_random_maps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(12, 48, 2)
    pred = ndimage.gaussian_filter(rng.random((height, width)), 1.5).astype(np.float32)
    pred = (pred - pred.min()) / np.ptp(pred)
    label = np.clip(
        ndimage.gaussian_filter((rng.random((height, width)) < 0.02).astype(float), 1.0) * 8, 0, 1
    )
    label[rng.random(height) < seed / 6] = 0.0  # rows without label
    settings = EvolutionSettings(
        window=int(rng.choice([7, 15, 33])),
        core=int(rng.choice([1, 3, 5])),
        connectivity=int(rng.choice([4, 8])),
        t_b=float(rng.choice([0.3, 0.5, 0.9])),
        max_area=float(rng.choice([0.0015, 0.05])),
        lock=("saturated", "points")[seed % 2],
    )
    np.testing.assert_array_equal(
        evolve(pred, label, NO_POINTS, settings), slow_evolution(pred, label, settings)
    )


def scene() -> tuple[np.ndarray, np.ndarray]:
    pred = np.zeros((60, 60), np.float32)
    pred[25:32, 25:32] = 0.9
    pred[5:9, 40:44] = 0.95  # another bright region in the window, away from the core
    label = np.zeros((60, 60), np.float32)
    label[27:30, 27:30] = 1.0
    return pred, label


def test_regions_off_the_core_are_not_kept() -> None:
    pred, label = scene()
    pred[40:43, 40:43] = 0.95
    kept = kept_regions(pred, label, EvolutionSettings())
    assert kept[25:32, 25:32].all()
    assert kept.sum() == 49


def test_label_moves_half_way_inside_and_decays_outside() -> None:
    pred, label = scene()
    label[50, 50] = 0.4  # below the threshold: no region of its own
    out = evolve(pred, label, NO_POINTS)
    assert out[28, 28] == pytest.approx((1 + 0.9) / 2)
    assert out[25, 25] == pytest.approx(0.45)
    assert out[50, 50] == pytest.approx(0.97 * 0.4)
    assert out[6, 42] == 0
    assert evolve(pred, label, NO_POINTS, EvolutionSettings(decay=1.0))[50, 50] == np.float32(0.4)


def test_locks() -> None:
    pred, label = scene()
    pred[:] = 0
    point = np.array([[28, 28]])
    by_points = evolve(pred, label, point)
    assert by_points[28, 28] == 1
    assert by_points[27, 27] == np.float32(0.97)
    saturated = evolve(pred, label, point, SATURATED)
    np.testing.assert_array_equal(saturated, label)
    free = evolve(pred, label, NO_POINTS)
    np.testing.assert_array_equal(free, label * np.float32(0.97))


def test_a_label_over_a_target_shrinks_unless_saturated_pixels_are_locked() -> None:
    pred = np.zeros((80, 80), np.float32)
    pred[38:43, 38:43] = 1.0
    first = np.zeros((80, 80), np.float32)
    first[30:51, 30:51] = 1.0
    point = np.array([[40, 40]])
    shrinking, locked = first, first
    for _ in range(40):
        shrinking = evolve(pred, shrinking, point)
        locked = evolve(pred, locked, point, SATURATED)
    np.testing.assert_array_equal(shrinking > 0.5, pred > 0.5)
    np.testing.assert_array_equal(locked, first)


def test_inputs_are_left_alone_and_values_stay_in_range() -> None:
    rng = np.random.default_rng(0)
    pred, label = rng.random((40, 50), dtype=np.float32), rng.random((40, 50), dtype=np.float32)
    copies = pred.copy(), label.copy()
    out = evolve(pred, label, [[3, 4]])
    np.testing.assert_array_equal(pred, copies[0])
    np.testing.assert_array_equal(label, copies[1])
    assert 0 <= out.min() <= out.max() <= 1
    assert (
        evolve(pred[:, ::-1], label[:, ::-1], [[3, 45]])[:, ::-1][3, 4] == 1
    )  # views need not be contiguous


def test_to_uint8_rounds_half_to_even_and_clips() -> None:
    np.testing.assert_array_equal(
        to_uint8(np.array([[0.5 / 255, 1.5 / 255, 2.5 / 255, 1.2, -0.1]])), [[0, 2, 2, 255, 0]]
    )
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(to_uint8(from_uint8(stored)), stored)


def test_bad_input_is_named() -> None:
    pred, label = scene()
    with pytest.raises(LabelError, match="differ in size"):
        evolve(pred[:-1], label, NO_POINTS)
    with pytest.raises(LabelError, match="prediction has values outside"):
        evolve(pred * 3 - 1, label, NO_POINTS)
    with pytest.raises(LabelError, match="label has values outside"):
        evolve(pred, np.full_like(label, np.nan), NO_POINTS)
    with pytest.raises(LabelError, match="floating-point"):
        evolve(pred, (label > 0).astype(np.uint8), NO_POINTS)  # type: ignore[type-var]
    with pytest.raises(DataError, match="outside the image"):
        evolve(pred, label, [[60, 0]])
    for wrong in (
        {"lock": "all"},
        {"window": 32},
        {"core": 35},
        {"decay": 1.1},
        {"k": -1.0},
        {"connectivity": 5},
    ):
        with pytest.raises(ConfigError):
            EvolutionSettings(**wrong)  # type: ignore[arg-type]


def test_lesps_keeps_regions_that_meet_a_label_and_may_only_raise() -> None:
    label = np.zeros((40, 40))
    label[20, 20:26] = 1.0  # centroid at column 22
    pred = np.zeros((40, 40))
    pred[20, 25] = pred[21, 25] = 0.8  # meets the label, far from the core
    pred[30, 30] = 0.8  # meets nothing
    points = np.array([[20, 20]])
    rule = EvolutionSettings(decay=1.0, max_area=0.1)
    core = evolve(pred, label, points, rule)
    meet = evolve(pred, label, points, replace(rule, meet="label"))
    grown = evolve(pred, label, points, replace(rule, meet="label", rise="raise"))
    assert core[21, 25] == 0.0
    assert (meet[21, 25], meet[20, 25], meet[30, 30]) == (0.4, 0.9, 0.0)
    assert (grown[21, 25], grown[20, 25]) == (0.4, 1.0)
    for wrong in ({"meet": "all"}, {"rise": "fall"}):
        with pytest.raises(ConfigError, match="unknown"):
            EvolutionSettings(**wrong)  # type: ignore[arg-type]
