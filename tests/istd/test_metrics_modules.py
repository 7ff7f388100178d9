"""The torchmetrics classes, the region numbering, and the target list."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from istd._regions import fill_holes, find_regions, label_mask
from istd.errors import ConfigError, DataError
from istd.metrics import (
    DetectionMetrics,
    FalseAlarmRate,
    IoU,
    MetricConvention,
    NIoU,
    ProbabilityOfDetection,
    functional,
    pixel_counts,
    target_counts,
)
from istd.targets import list_targets

SINGLE = {"iou": IoU, "niou": NIoU, "pd": ProbabilityOfDetection, "fa": FalseAlarmRate}


def some_maps(seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = np.random.default_rng(seed)
    pairs = []
    for shape in ((20, 30), (20, 30), (33, 17), (9, 9)):
        target = rng.random(shape) < 0.03
        pred = np.clip(target * 0.6 + rng.random(shape) * 0.55, 0, 1)
        pairs.append((torch.from_numpy(pred.astype(np.float32)), torch.from_numpy(target)))
    return [*pairs, (torch.zeros(8, 8), torch.zeros(8, 8, dtype=torch.bool))]


def test_one_pass_equals_the_single_metrics_and_the_functions() -> None:
    pairs = some_maps()
    together = DetectionMetrics()
    single = {name: kind() for name, kind in SINGLE.items()}
    for pred, target in pairs:
        together.update(pred[None, None], target[None, None])
        for metric in single.values():
            metric.update(pred[None, None], target[None, None])
    values = {name: float(value) for name, value in together.compute().items()}
    assert list(values) == ["iou", "niou", "pd", "fa", "precision", "recall", "f1"]
    for name, metric in single.items():
        assert float(metric.compute()) == values[name]
        assert metric.compute().dtype == torch.float64
    pixels = [pixel_counts(p, t) for p, t in pairs]
    targets = [target_counts(p, t) for p, t in pairs]
    assert values["niou"] == functional.niou(pixels)
    assert values["pd"] == functional.probability_of_detection(targets) > 0
    assert values["fa"] == functional.false_alarm_rate(targets) > 0
    tp, fp = sum(c.tp for c in pixels), sum(c.fp for c in pixels)
    assert values["precision"] == tp / (tp + fp)


def test_batches_sequences_and_single_images_are_the_same() -> None:
    pairs = some_maps()[:2]
    preds, targets = torch.stack([p for p, _ in pairs]), torch.stack([t for _, t in pairs])
    results = []
    for update in (
        lambda m: m.update(preds[:, None], targets[:, None]),
        lambda m: m.update(preds, targets),
        lambda m: m.update(list(preds), list(targets)),
        lambda m: [m.update(p, t) for p, t in pairs],
        lambda m: m.update(preds.double(), targets.to(torch.uint8) * 255),
    ):
        metric = DetectionMetrics()
        update(metric)
        results.append(metric.per_image())
    assert all(rows == results[0] for rows in results)
    assert len(results[0]) == 2


def test_images_of_different_sizes_go_together() -> None:
    pairs = some_maps()
    metric = DetectionMetrics()
    metric.update([p for p, _ in pairs], [t for _, t in pairs])
    rows = metric.per_image()
    assert [row["pixels"] for row in rows] == [600, 600, 561, 81, 64]
    for row, (pred, target) in zip(rows, pairs, strict=True):
        counts, targets = pixel_counts(pred, target), target_counts(pred, target)
        assert row["iou"] == functional.iou(counts)
        assert (row["tp"], row["fp"], row["fn"]) == (counts.tp, counts.fp, counts.fn)
        assert (row["targets"], row["detected"]) == (targets.targets, targets.detected)
        assert (row["predicted"], row["false_area"]) == (targets.predicted, targets.false_area)


def test_logits_and_probabilities_agree() -> None:
    pairs = some_maps()
    from_logits, from_probabilities = DetectionMetrics(from_logits=True), DetectionMetrics()
    for pred, target in pairs:
        logits = torch.logit(pred.double())
        from_logits.update(logits, target)
        from_probabilities.update(torch.sigmoid(logits), target)
    assert from_logits.per_image() == from_probabilities.per_image()
    zero = torch.zeros(4, 4)
    metric = IoU(from_logits=True)
    metric.update(zero, torch.ones(4, 4))
    assert float(metric.compute()) == 0  # σ(0) = 0.5 is not above the threshold


@pytest.mark.parametrize(("rule", "expected"), [("zero", 0.5), ("one", 1.0), ("skip", 1.0)])
def test_the_empty_rule_reaches_the_classes(rule: Any, expected: float) -> None:
    full, empty = torch.ones(4, 4), torch.zeros(4, 4)
    convention = MetricConvention(empty_niou=rule)
    together, alone = DetectionMetrics(convention), NIoU(convention)
    for metric in (together, alone):
        metric.update(full, full)
        metric.update(empty, empty)
    assert float(together.compute()["niou"]) == float(alone.compute()) == expected


def test_reset_forgets_and_states_merge() -> None:
    pairs = some_maps()
    whole, part, rest = DetectionMetrics(), DetectionMetrics(), DetectionMetrics()
    for i, (pred, target) in enumerate(pairs):
        whole.update(pred, target)
        (part if i < 2 else rest).update(pred, target)
    rest.merge_state(part)  # torchmetrics puts the other's images first
    assert rest.compute() == whole.compute()
    assert rest.per_image() == whole.per_image()
    whole.reset()
    assert whole.per_image() == []


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen_gives_zeros() -> None:
    assert all(float(value) == 0 for value in DetectionMetrics().compute().values())
    assert all(float(kind().compute()) == 0 for kind in SINGLE.values())


def test_bad_input_is_named() -> None:
    metric = DetectionMetrics()
    with pytest.raises(DataError, match="differ in size"):
        metric.update(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 5))
    with pytest.raises(DataError, match="differ in number"):
        metric.update([torch.zeros(4, 4)], [])
    with pytest.raises(DataError, match="not maps"):
        metric.update(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
    with pytest.raises(DataError, match="not a number"):
        metric.update(torch.full((4, 4), torch.nan), torch.zeros(4, 4))
    assert metric.per_image() == []


# --- regions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connectivity", [4, 8])
def test_regions_are_numbered_in_raster_order(connectivity: int) -> None:
    rng = np.random.default_rng(connectivity)
    for density in (0.1, 0.35, 0.5, 0.65):
        mask = rng.random((41, 53)) < density
        regions = find_regions(mask, connectivity)
        flat = regions.labels[mask]
        _, first = np.unique(flat, return_index=True)
        assert (np.diff(first) > 0).all()
        assert regions.count == flat.max()
        assert not regions.labels[~mask].any()
        for number in range(1, regions.count + 1):
            pixels = np.argwhere(regions.labels == number)
            assert regions.areas[number - 1] == len(pixels)
            np.testing.assert_array_equal(regions.centroids[number - 1], pixels.mean(axis=0))


def test_regions_of_odd_masks() -> None:
    assert find_regions(np.zeros((5, 6), bool)).count == 0
    assert find_regions(np.zeros((5, 6), bool)).centroids.shape == (0, 2)
    assert find_regions(np.ones((1, 1), bool)).areas.tolist() == [1]
    full = find_regions(np.ones((7, 3), np.uint8))
    assert full.areas.tolist() == [21]
    assert full.centroids.tolist() == [[3.0, 1.0]]
    diagonal = np.eye(4, dtype=bool)
    assert find_regions(diagonal, 8).count == 1
    assert find_regions(diagonal, 4).count == 4
    assert label_mask(diagonal[::-1], 4)[0] == 4
    with pytest.raises(ConfigError, match="connectivity"):
        find_regions(diagonal, 6)


def test_holes_open_to_the_border_are_no_holes() -> None:
    ring = np.zeros((7, 7), bool)
    ring[1:6, 1:6] = True
    ring[2:5, 2:5] = False
    assert fill_holes(ring).sum() == 25
    assert fill_holes(ring[2:]).sum() == ring[2:].sum()  # cut open by the image's border
    diamond = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
    assert fill_holes(diamond).sum() == 5  # closed by corners: background passes sides only


# --- targets ---------------------------------------------------------------------------------------------


def test_targets_are_listed_in_raster_order_with_their_scores() -> None:
    probability = np.zeros((20, 30), np.float32)
    probability[10, 3:6] = [0.6, 0.9, 0.7]
    probability[2, 20] = 0.8
    probability[3, 21] = 0.75
    probability[15, 15] = 0.5
    found = list_targets(probability)
    assert [(t.x, t.y, t.area) for t in found] == [(20.5, 2.5, 2), (4.0, 10.0, 3)]
    assert [t.score for t in found] == pytest.approx([0.8, 0.9])
    assert [t.area for t in list_targets(probability, connectivity=4)] == [1, 1, 3]
    assert [t.area for t in list_targets(probability, threshold=0.4, min_area=2)] == [2, 3]
    assert [t.area for t in list_targets(probability, threshold=0.85)] == [1]
    assert list_targets(np.zeros((4, 4))) == []


@pytest.mark.parametrize("wrong", [np.zeros((1, 4, 4)), np.zeros((4, 4), np.uint8)])
def test_targets_need_a_probability_map(wrong: np.ndarray) -> None:
    with pytest.raises(DataError, match="map of probabilities"):
        list_targets(wrong)
