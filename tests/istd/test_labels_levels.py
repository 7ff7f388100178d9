"""First labels averaged over likely boundary levels: known shapes, uncertainty, real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from istd.data.points import centroid_points
from istd.errors import ConfigError
from istd.labels import LevelsSettings, initialize
from istd.labels._reconstruct import reconstruct

SINGLE = {"levels": 1, "spread": 0.0}


def blob(sigma: float = 2.0, peak: float = 120.0, at: tuple[int, int] = (30, 40)) -> np.ndarray:
    y, x = np.mgrid[:64, :80]
    share = np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * sigma**2))
    return np.rint(60 + peak * share).astype(np.uint8)


@pytest.mark.parametrize("peak", [40.0, 80.0, 160.0])
def test_the_boundary_is_a_visible_step_and_a_share_of_the_contrast(peak: float) -> None:
    image = blob(peak=peak)
    settings = {**SINGLE, "fraction": 0.2, "visible": 10.0, "ring": 0}
    label = initialize(image, [[30, 40]], "levels", settings)
    assert label.succeeded.all()
    np.testing.assert_array_equal(label.mask > 0, image > np.float32(60 + 10 + 0.2 * peak))


def test_the_background_is_that_around_the_target() -> None:
    """A target on a bright cloud in a dark sky: its boundary is measured from the cloud."""
    image = np.full((64, 80), 40, np.uint8)
    image[24:37, 30:51] = 100
    cloud = image.copy()
    cloud[29:32, 39:42] = 160
    settings = {**SINGLE, "fraction": 0.55, "visible": 0.0, "retries": 0}
    np.testing.assert_array_equal(initialize(cloud, [[30, 40]], "levels", settings).mask > 0, cloud == 160)
    # A rim of 120 is below 100 + 0.55·60, the level above the cloud, and above 40 + 0.55·120, above the sky.
    cloud[28, 39:42] = 120
    near = initialize(cloud, [[30, 40]], "levels", settings)
    far = initialize(cloud, [[30, 40]], "levels", {**settings, "ring": 0})
    assert near.mask[28, 40] == 0
    assert far.mask[28, 40] == 1


def test_values_are_probabilities_that_fall_outwards() -> None:
    label = initialize(blob(sigma=3.0), [[30, 40]], "levels").mask
    row = label[30, 40:60]
    assert label[30, 40] == 1
    assert (np.diff(row) <= 1e-6).all()
    assert ((row > 0.05) & (row < 0.95)).sum() >= 1
    assert label.max() <= 1.0
    assert label.min() >= 0
    hard = initialize(blob(sigma=3.0), [[30, 40]], "levels", {"soft": False}).mask
    np.testing.assert_array_equal(hard > 0, label > 0.5)


def test_a_strong_edge_near_the_expected_level_wins() -> None:
    """A bright core in a faint halo: edges pull the boundary to where the image falls most."""
    image = np.full((60, 60), 50, np.uint8)
    cv2.circle(image, (30, 30), 6, 72, -1)
    cv2.circle(image, (30, 30), 3, 170, -1)
    core = image == 170
    settings = {"fraction": 0.1, "visible": 6.0, "ring": 0, "spread": 0.1}
    plain = initialize(image, [[30, 30]], "levels", {**settings, "edge": 0.0}).mask
    edges = initialize(image, [[30, 30]], "levels", {**settings, "edge": 3.0}).mask
    halo = (image > 60) & ~core
    assert edges[halo].mean() < plain[halo].mean() - 0.1
    assert edges[core].min() == pytest.approx(1.0)


@pytest.mark.parametrize("connectivity", [4, 8])
def test_one_map_holds_the_regions_of_every_threshold(connectivity: int) -> None:
    image = np.random.default_rng(3).integers(0, 9, (25, 27)).astype(np.float32)
    seed = (12, 13)
    start = np.full_like(image, image.min())
    start[seed] = image[seed]
    level = reconstruct(image, start, connectivity)
    for threshold in range(int(image[seed])):
        _, parts = cv2.connectedComponents((image > threshold).astype(np.uint8), connectivity=connectivity)
        np.testing.assert_array_equal(level > threshold, parts == parts[seed])


def test_no_contrast_and_no_boundary_fall_back_to_a_square() -> None:
    flat = initialize(np.full((40, 40), 90, np.uint8), [[20, 20]], "levels")
    assert not flat.succeeded.any()
    assert flat.mask.sum() == 9
    half = np.full((40, 40), 90, np.uint8)
    half[:, 20:] = 200
    wide = initialize(half, [[20, 30]], "levels", {"percentile": 30.0})
    assert not wide.succeeded.any()


def test_points_at_the_border_and_of_neighbours_work() -> None:
    image = np.maximum(blob(at=(0, 0)), blob(at=(40, 40)))
    image = np.maximum(image, blob(at=(40, 52)))
    label = initialize(image, [[0, 0], [40, 40], [40, 52]], "levels")
    assert label.succeeded.all()
    assert label.mask[40, 46] < 0.5
    assert initialize(image, [], "levels").mask.sum() == 0


@pytest.mark.parametrize(
    "settings",
    [{"fraction": 0.71}, {"visible": -1.0}, {"levels": 0}, {"window": 32}, {"ring": -1}, {"max_share": 0.0}],
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LevelsSettings(**settings)


def test_labels_on_sirst_beat_a_fixed_fraction_on_both_splits(sirst_root: Path) -> None:
    for split, bounds in (("train", (0.785, 0.795)), ("val", (0.80, 0.80))):
        counts: dict[str, list[tuple[int, int]]] = {"levels": [], "contrast": []}
        for name in (sirst_root / "idx_427" / f"{split}.txt").read_text().split():
            image = cv2.imread(str(sirst_root / "images" / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
            mask = cv2.imread(str(sirst_root / "masks" / f"{name}_pixels0.png"), cv2.IMREAD_GRAYSCALE) > 127
            for start, found in counts.items():
                label = initialize(image, centroid_points(mask), start).mask > 0.5
                found.append((np.count_nonzero(label & mask), np.count_nonzero(label | mask)))
        ours, theirs = (np.array(found) for found in counts.values())
        for of, bound in zip((pooled_iou, mean_iou), bounds, strict=True):
            assert of(ours) > max(bound, of(theirs) + 0.02)


def pooled_iou(counts: np.ndarray) -> float:
    return float(counts[:, 0].sum() / counts[:, 1].sum())


def mean_iou(counts: np.ndarray) -> float:
    return float((counts[:, 0] / counts[:, 1]).mean())
