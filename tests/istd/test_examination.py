"""The examination of a split: the figures of `evaluate`, with curves, groups and the worst images."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from istd.data import ImageSet, SyntheticDataset, load_split
from istd.engine import Tiling, evaluate
from istd.engine.examination import examine
from istd.errors import DataError
from istd.metrics import DNANET, GROUPS, MetricConvention


@pytest.fixture(scope="module")
def images() -> ImageSet:
    dataset = SyntheticDataset(num_train=1, num_val=1, num_test=6, size=(48, 56), seed=2)
    return load_split(dataset, "test")


def bright(x: Tensor) -> Tensor:
    """A detector of bright pixels."""
    return 30 * (x - x.mean(dim=(2, 3), keepdim=True)) - 3


@pytest.mark.parametrize("convention", [MetricConvention(), DNANET, MetricConvention(threshold=0.3)])
def test_figures_are_those_of_evaluate_and_lie_on_the_curves(
    images: ImageSet, convention: MetricConvention
) -> None:
    expected, rows = evaluate(bright, images, convention)
    found = examine(bright, images, convention, worst=3)
    assert found.metrics == expected
    assert [{k: v for k, v in row.items() if k != "groups"} for row in found.rows] == rows
    at = found.curves.thresholds.tolist().index(convention.threshold)
    for name in ("iou", "niou", "pd", "fa", "precision", "recall", "f1"):
        assert getattr(found.curves, name)[at] == pytest.approx(expected[name], abs=1e-12), name
    assert set(found.groups) == set(GROUPS)
    targets = sum(row["targets"] for row in rows)
    assert sum(scores["targets"] for scores in found.groups.values()) == targets > 0
    assert sum(scores["detected"] for scores in found.groups.values()) == sum(r["detected"] for r in rows)
    assert sum(len(row["groups"].split()) for row in found.rows) == targets
    order = sorted(rows, key=lambda row: row["iou"])
    assert [overlay.name for overlay in found.worst] == [row["name"] for row in order[:3]]


def test_tables_and_gallery_are_written(images: ImageSet, tmp_path: Path) -> None:
    found = examine(bright, images, MetricConvention(), tiling=Tiling(tile=32, overlap=8))
    found.write(tmp_path, "student")
    for name, count in (("per_image", len(images)), ("curves", len(found.curves.thresholds)), ("groups", 4)):
        with (tmp_path / f"student_{name}.csv").open() as stream:
            assert len(list(csv.DictReader(stream))) == count
    picture = cv2.imread(str(tmp_path / "student_worst.png"))
    assert picture.std() > 10


def test_images_without_masks_are_refused(images: ImageSet) -> None:
    blind = ImageSet(images.names, images.images, None, images.points)
    with pytest.raises(DataError, match="images of this split have no mask"):
        examine(bright, blind, MetricConvention())


def test_an_image_with_nothing_to_find_is_not_a_worst_case(images: ImageSet) -> None:
    def nothing(x: Tensor) -> Tensor:
        return torch.full_like(x, -9.0)

    found = examine(nothing, images, MetricConvention(), worst=len(images))
    with_targets = [row["name"] for row in found.rows if row["targets"]]
    assert [o.name for o in found.worst][: len(with_targets)] == with_targets
    assert np.all(found.curves.pd[found.curves.thresholds > 0.1] == 0)
