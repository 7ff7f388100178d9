"""Threshold sweeps against one count per threshold, and the target groups on drawn targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from istd._regions import find_regions
from istd.data import SyntheticDataset, measure_targets
from istd.errors import ConfigError, DataError
from istd.metrics import (
    GroupMetrics,
    MetricConvention,
    PixelCounts,
    ThresholdSweep,
    default_thresholds,
    describe_targets,
    functional,
    pixel_counts,
    target_counts,
)

GRID = np.array([0.0, 0.05, 0.1, 0.25, 0.3, 0.5, 0.75, 0.9, 0.99])


def some_maps(dtype: Any = np.float32) -> list[tuple[np.ndarray, np.ndarray]]:
    """Probabilities with ties, many of them exactly at a threshold, and their masks; one pair is empty."""
    rng = np.random.default_rng(0)
    pairs = []
    for shape in ((24, 31), (17, 9), (40, 40), (1, 12)):
        target = np.kron(rng.random((-(-shape[0] // 3), -(-shape[1] // 3))) < 0.08, np.ones((3, 3))) > 0
        target = target[: shape[0], : shape[1]]
        values = np.clip(target * 0.5 + rng.choice(GRID, shape) * (rng.random(shape) < 0.2), 0, 1)
        pairs.append((values.astype(dtype), target))
    return [*pairs, (np.zeros((6, 6), dtype), np.zeros((6, 6), bool))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "convention",
    [
        MetricConvention(),
        MetricConvention(matching="nearest", connectivity=4, empty_niou="one", false_area="by_value"),
        MetricConvention(matching="hungarian", distance=2.0, empty_niou="skip"),
        MetricConvention(matching="overlap"),
    ],
    ids=lambda c: c.matching if isinstance(c, MetricConvention) else c.__name__,
)
def test_one_pass_equals_a_count_at_each_threshold(convention: MetricConvention, dtype: Any) -> None:
    pairs = some_maps(dtype)
    sweep = ThresholdSweep(GRID, convention)
    for values, target in pairs:
        sweep.update(torch.from_numpy(values), target)
    curves = sweep.curves()
    for i, threshold in enumerate(GRID.tolist()):
        pixels = [pixel_counts(values, target, threshold) for values, target in pairs]
        targets = [target_counts(values > threshold, target, convention) for values, target in pairs]
        for name in ("tp", "fp", "fn", "tn"):
            assert getattr(curves, name)[i] == sum(getattr(c, name) for c in pixels), (name, threshold)
        for name in ("detected", "predicted", "false_area"):
            assert getattr(curves, name)[i] == sum(getattr(c, name) for c in targets), (name, threshold)
        whole = PixelCounts(*(sum(getattr(c, name) for c in pixels) for name in ("tp", "fp", "fn", "tn")))
        assert curves.niou[i] == pytest.approx(functional.niou(pixels, convention.empty_niou), abs=1e-12)
        for name in ("iou", "precision", "recall", "f1"):
            assert getattr(curves, name)[i] == getattr(functional, name)(whole)
        assert curves.pd[i] == functional.probability_of_detection(targets)
        assert curves.fa[i] == functional.false_alarm_rate(targets)
    assert curves.targets == sum(c.targets for c in targets)


def test_areas_under_the_curves_equal_scikit_learn_where_every_value_is_a_threshold() -> None:
    values, target = some_maps(np.float64)[2]
    levels = np.unique(values)
    sweep = ThresholdSweep(np.union1d([0.0], levels[levels < 1]))
    sweep.update(np.maximum(values, 1e-9), target)
    curves = sweep.curves()
    truth, scores = target.ravel(), np.maximum(values, 1e-9).ravel()
    assert curves.roc_auc == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert curves.average_precision == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    summary = curves.to_dict()
    assert summary["best_iou"]["value"] == curves.iou.max()
    assert len(curves.rows()) == len(curves.thresholds)
    assert curves.rows()[1]["fa"] == curves.fa[1]


def test_default_thresholds_hold_one_half_and_the_conventions_own() -> None:
    levels = default_thresholds()
    assert levels[0] == 0.0
    assert 0.5 in levels
    assert (np.diff(levels) > 0).all()
    assert 0.37 in ThresholdSweep(convention=MetricConvention(threshold=0.37)).thresholds


def test_a_sweep_refuses_what_it_cannot_count() -> None:
    for thresholds in ([], [0.5, 0.2], [0.5, 1.0], [-0.1]):
        with pytest.raises(ConfigError, match="thresholds"):
            ThresholdSweep(thresholds)
    sweep = ThresholdSweep()
    mask = np.zeros((4, 5), bool)
    for wrong in (mask, np.zeros((5, 4), np.float32), np.zeros((1, 4, 5), np.float32)):
        with pytest.raises(DataError):
            sweep.update(wrong, mask)
    with pytest.raises(DataError, match="not a number"):
        sweep.update(np.full((4, 5), np.nan, np.float32), mask)


def scene(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """A gray image with one target of that group, and its mask."""
    rng = np.random.default_rng(1)
    noise = 30.0 if kind == "camouflaged" else 2.0
    image = 90 + noise * rng.standard_normal((48, 48))
    mask = np.zeros((48, 48), bool)
    mask[20:23, 20 : 20 + (14 if kind == "filamentary" else 4)] = True
    image[mask] = image[mask].mean() * 0 + 90 + (15 if kind == "faint" else 80)
    return np.clip(image, 0, 255).astype(np.uint8), mask


@pytest.mark.parametrize("kind", ["salient", "filamentary", "faint", "camouflaged"])
def test_drawn_targets_fall_into_their_group(kind: str) -> None:
    image, mask = scene(kind)
    traits = describe_targets(image, find_regions(mask))
    assert [t.group for t in traits] == [kind]
    # A dark target stands out as a bright one does.
    assert describe_targets(255 - image, find_regions(mask))[0].group == kind


def test_traits_agree_with_the_measure_of_the_data_package() -> None:
    dataset = SyntheticDataset(num_train=1, num_val=0, num_test=0, size=(64, 64), seed=5)
    record = dataset.read(dataset.names[0])
    assert record.mask is not None
    mask = record.mask > 0
    measured, traits = measure_targets(record.image, mask), describe_targets(record.image, find_regions(mask))
    assert len(measured) == len(traits) > 0
    for one, other in zip(measured, traits, strict=True):
        assert (other.area, other.contrast) == (one.area, pytest.approx(one.contrast))
        assert other.scr == pytest.approx(one.scr)


def test_elongation_of_shapes_that_are_known() -> None:
    image, mask = np.zeros((30, 30), np.uint8), np.zeros((30, 30), bool)
    mask[2, 2] = mask[10, 5:17] = True
    mask[20:24, 20:24] = True
    dot, line, square = describe_targets(image, find_regions(mask))
    assert dot.elongation == square.elongation == pytest.approx(1.0)
    assert line.elongation == pytest.approx(12.0)  # a box of 12 × 1 pixels
    full = describe_targets(image, find_regions(np.ones((30, 30), bool)))[0]
    assert np.isnan(full.scr)
    assert full.group == "salient"


def test_groups_count_their_own_targets() -> None:
    metrics = GroupMetrics()
    for kind in ("salient", "faint"):
        image, mask = scene(kind)
        found = mask.copy()
        if kind == "faint":
            found[:] = False
        else:
            found[20, 20:24] = False
            found[23, 20:24] = True
        assert metrics.update(image, found, mask) == [kind]
    scores = metrics.compute()
    assert scores["salient"] == {
        "targets": 1,
        "detected": 1,
        "pd": 1.0,
        "recall": pytest.approx(8 / 12),
        "target_iou": pytest.approx(8 / 16),
    }
    assert scores["faint"] == {"targets": 1, "detected": 0, "pd": 0.0, "recall": 0.0, "target_iou": 0.0}
    assert scores["camouflaged"]["targets"] == 0
