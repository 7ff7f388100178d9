"""First labels: the reference's decisions exactly, local contrast on known shapes, calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from istd.data.points import centroid_points
from istd.errors import ConfigError, DataError, LabelError
from istd.labels import (
    CannySettings,
    ContrastSettings,
    InitialLabels,
    calibrate,
    initialization_settings,
    initialize,
    list_initializations,
    register_initialization,
)
from istd.labels import _initial as registry

Golden = Callable[[str], dict[str, Any]]


def blob(
    size: tuple[int, int] = (64, 80),
    center: tuple[float, float] = (30.0, 40.0),
    sigma: float = 2.0,
    peak: float = 120.0,
    background: float = 60.0,
) -> tuple[np.ndarray, np.ndarray]:
    """A Gaussian target on a flat background, and each pixel's share of the contrast in [0, 1]."""
    y, x = np.mgrid[: size[0], : size[1]]
    share = np.exp(-((y - center[0]) ** 2 + (x - center[1]) ** 2) / (2 * sigma**2))
    return np.rint(background + peak * share).astype(np.uint8), share


def sirst_images(root: Path, split: str = "trainvaltest") -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, image, mask) of real images; a mask of another size is resized to its image."""
    names = sorted(path.stem for path in (root / "images").glob("*.png"))
    if split != "trainvaltest":
        names = (root / "idx_427" / f"{split}.txt").read_text().split()
    for name in names:
        image = cv2.imread(str(root / "images" / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        mask = cv2.imread(str(root / "masks" / f"{name}_pixels0.png"), cv2.IMREAD_GRAYSCALE)
        if mask.shape != image.shape:
            mask = cv2.resize(mask, image.shape[::-1], interpolation=cv2.INTER_NEAREST)
        yield name, image, mask > 127


# --- canny -----------------------------------------------------------------------------------------------


def test_canny_equals_the_reference_on_real_images(golden: Golden) -> None:
    case = golden("01_label_init")
    for i, selected in enumerate(case["selected"]):
        flags = case[f"pointflags_{i}"]
        labels = initialize(case[f"img_{i}"], flags[:, :2], method="canny")
        assert labels.mask.dtype == np.float32
        assert labels.succeeded.tolist() == (flags[:, 2] == 1).tolist()
        np.testing.assert_array_equal(labels.mask * 255, case[f"mask_selectall_{i}"])
        assert labels.enters_pool() == selected
        if selected:
            np.testing.assert_array_equal(labels.mask * 255, case[f"mask_{i}"])
        annotated = np.argwhere(case[f"points_{i}"] == 255)
        np.testing.assert_array_equal(annotated, flags[:, :2])


def test_canny_selects_the_reference_s_training_images(golden: Golden, sirst_root: Path) -> None:
    case = golden("01_label_init")
    expected = {
        str(n).removesuffix(".png"): bool(s)
        for n, s in zip(case["all_train_names"], case["all_train_selected"], strict=True)
    }
    found = {
        name: initialize(image, centroid_points(mask), method="canny").enters_pool()
        for name, image, mask in sirst_images(sirst_root, "train")
    }
    assert found == expected


def test_canny_fills_a_closed_contour_and_fails_on_flat_ground() -> None:
    image, share = blob(sigma=1.5)
    labels = initialize(image, [[30, 40], [5, 5]], method="canny")
    assert labels.succeeded.tolist() == [True, False]
    assert labels.mask[30, 40] == 1
    assert 9 <= labels.mask.sum() - 1 <= 60
    assert labels.mask[share > 0.6].all()
    assert labels.mask[5, 5] == 1  # the point itself is always labelled
    assert labels.mask[:12, :12].sum() == 1


def test_canny_refuses_large_structures() -> None:
    image = np.full((60, 60), 40, np.uint8)
    image[22:38, 22:38] = 200
    assert not initialize(image, [[30, 30]], "canny").succeeded[0]
    assert initialize(image, [[30, 30]], "canny", {"max_area": 1000.0}).succeeded[0]


# --- the pool --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("succeeded", "enters"),
    [
        ([], True),
        ([True] * 4 + [False], True),
        ([True] * 3 + [False], False),
        ([False], False),
        ([True], True),
    ],
)
def test_pool_takes_images_whose_points_mostly_succeed(succeeded: list[bool], enters: bool) -> None:
    labels = InitialLabels(np.zeros((4, 4), np.float32), np.array(succeeded, bool))
    assert labels.enters_pool() == enters
    assert labels.enters_pool(min_success=0.0)


def test_an_image_without_points_gets_an_empty_label() -> None:
    image, _ = blob()
    for method in ("canny", "contrast"):
        labels = initialize(image, np.zeros((0, 2), np.int64), method)
        assert labels.mask.sum() == 0
        assert labels.enters_pool()


# --- contrast --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.15, 0.3, 0.5, 0.8])
def test_contrast_cuts_at_the_fraction(fraction: float) -> None:
    image, _ = blob(sigma=2.5)
    labels = initialize(image, [[30, 40]], settings={"fraction": fraction})
    expected = image > 60 + fraction * 120  # the background is flat and the peak is at the point
    np.testing.assert_array_equal(labels.mask > 0, expected)
    assert labels.succeeded.all()


def test_contrast_finds_the_peak_beside_the_point() -> None:
    image, _ = blob(sigma=1.2)
    for point in ([30, 40], [32, 40], [28, 38], [30, 42]):
        expected = image > 60 + 0.3 * 120
        expected[tuple(point)] = True
        np.testing.assert_array_equal(initialize(image, [point]).mask > 0, expected)


def test_contrast_keeps_only_the_region_at_the_point() -> None:
    one, _ = blob(center=(30, 30))
    other, _ = blob(center=(30, 44))
    labels = initialize(np.maximum(one, other), [[30, 30]])
    assert labels.mask[30, 30] == 1
    assert labels.mask[:, 40:].sum() == 0


@pytest.mark.parametrize("point", [[0, 0], [63, 79], [0, 79], [63, 0]])
def test_contrast_works_at_the_border(point: list[int]) -> None:
    image, _ = blob(center=(point[0], point[1]))
    labels = initialize(image, [point])
    assert labels.succeeded.all()
    np.testing.assert_array_equal(labels.mask > 0, image > 60 + 0.3 * 120)


def test_contrast_falls_back_where_there_is_no_contrast() -> None:
    flat = np.full((40, 40), 90, np.uint8)
    labels = initialize(flat, [[20, 20], [0, 0]])
    assert labels.succeeded.tolist() == [False, False]
    assert labels.mask.sum() == 9 + 4
    assert initialize(flat, [[20, 20]], settings={"fallback_radius": 0}).mask.sum() == 1
    assert not labels.enters_pool()


def test_contrast_cuts_a_region_that_floods_the_window_higher() -> None:
    image = np.full((60, 60), 50, np.uint8)
    image[:, 30:41] = 130  # a bright band: a third of the window
    image[28:33, 33:38] = 250
    settings = ContrastSettings(retries=2)
    labels = initialize(image, [[30, 35]], settings=settings)
    assert labels.succeeded.all()
    np.testing.assert_array_equal(labels.mask > 0, image == 250)
    flooded = initialize(image, [[30, 35]], settings={"retries": 0})
    assert not flooded.succeeded.any()
    assert flooded.mask.sum() == 9


def test_noise_floor_raises_the_boundary_on_noise_only() -> None:
    rng = np.random.default_rng(3)
    image, _ = blob(peak=80)
    noisy = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    low = {"fraction": 0.1}
    plain = initialize(noisy, [[30, 40]], settings=low)
    floored = initialize(noisy, [[30, 40]], settings={**low, "noise_floor": 3.0})
    assert floored.mask.sum() < plain.mask.sum()
    assert floored.mask[30, 40] == 1
    clean = [initialize(image, [[30, 40]], settings={**low, "noise_floor": k}).mask for k in (0.0, 3.0)]
    np.testing.assert_array_equal(clean[0], clean[1])


def test_first_labels_on_sirst_are_as_good_as_measured(sirst_root: Path) -> None:
    scores = {}
    for method in ("canny", "contrast"):
        both = either = 0
        each = []
        for _, image, mask in sirst_images(sirst_root):
            label = initialize(image, centroid_points(mask), method).mask > 0
            inter, union = np.count_nonzero(label & mask), np.count_nonzero(label | mask)
            both, either = both + inter, either + union
            each.append(inter / union if union else 1.0)
        scores[method] = (both / either, float(np.mean(each)))
    assert 0.29 < scores["canny"][0] < 0.33
    assert 0.39 < scores["canny"][1] < 0.44
    assert 0.74 < scores["contrast"][0] < 0.78
    assert 0.745 < scores["contrast"][1] < 0.785


# --- calibration -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("true_fraction", [0.12, 0.3, 0.5])
def test_calibration_recovers_the_annotators_fraction(true_fraction: float) -> None:
    images, masks, points = [], [], []
    for sigma in (1.5, 2.0, 3.0):
        image, _ = blob(sigma=sigma)
        images.append(image)
        masks.append(image > 60 + true_fraction * 120)
        points.append([[30, 40]])
    found = calibrate(images, masks, points, prior_images=0, objective="iou")
    assert found.iou == pytest.approx(1.0)
    assert found.niou == pytest.approx(1.0)
    assert abs(found.settings.fraction - true_fraction) <= 0.04
    default = initialize(images[1], points[1]).mask > 0
    tuned = initialize(images[1], points[1], settings=found.settings).mask > 0
    assert np.count_nonzero(tuned ^ masks[1]) <= np.count_nonzero(default ^ masks[1])
    assert max(row[2] for row in found.table) == found.iou


def test_the_prior_steadies_a_few_masks_and_fades() -> None:
    image, share = blob(sigma=2.0)
    mask, points = share > 0.6, [[30, 40]]  # one annotator's mask, far from the prior
    fractions = [
        calibrate([image] * count, [mask] * count, [points] * count, prior_images=prior).settings.fraction
        for count, prior in ((1, 0.0), (1, 50.0), (1, 3.0), (12, 3.0))
    ]
    alone, held, one, many = fractions
    assert abs(alone - 0.6) <= 0.06
    assert held == 0.3
    assert 0.3 < one <= many <= alone


def test_calibration_prefers_the_prior_at_a_tie() -> None:
    image = np.full((40, 40), 20, np.uint8)
    image[18:22, 18:22] = 220  # sharp edges: every fraction gives the same label
    found = calibrate([image], [image > 100], [[[20, 20]]], fractions=(0.1, 0.2, 0.28, 0.5))
    assert found.settings.fraction == 0.28
    searched = calibrate([image], [image > 100], [[[20, 20]]], fractions=(0.2,), noise_floors=(0.0, 2.0))
    assert [row[1] for row in searched.table] == [0.0, 2.0]


def test_calibration_refuses_what_it_cannot_use() -> None:
    image, _ = blob()
    with pytest.raises(DataError, match="no trusted mask"):
        calibrate([image], [np.zeros(image.shape, bool)], [[]])
    with pytest.raises(LabelError, match="mask 0 differs"):
        calibrate([image], [np.ones((3, 3), bool)], [[[1, 1]]])
    with pytest.raises(DataError, match="differ in number"):
        calibrate([image], [], [])
    with pytest.raises(ConfigError, match="prior"):
        calibrate([image], [image > 100], [[[30, 40]]], prior_images=-1.0)
    with pytest.raises(ConfigError, match="grid is empty"):
        calibrate([image], [image > 100], [[[30, 40]]], fractions=())


# --- registry and bad input ------------------------------------------------------------------------------


def test_registry_takes_new_methods_by_one_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

    @register_initialization("nothing", CannySettings)
    def nothing(image: np.ndarray, points: np.ndarray, settings: CannySettings) -> InitialLabels:
        return InitialLabels(
            np.full(image.shape, float(settings.window), np.float32), np.ones(len(points), bool)
        )

    assert "nothing" in list_initializations()
    image, _ = blob()
    assert initialize(image, [[1, 1]], "nothing", {"window": 4}).mask[0, 0] == 4
    with pytest.raises(ConfigError, match="exists already"):
        register_initialization("nothing", CannySettings)(nothing)


def test_unknown_methods_and_settings_are_named() -> None:
    image, _ = blob()
    with pytest.raises(ConfigError, match="canny, contrast"):
        initialize(image, [[1, 1]], "cany")
    with pytest.raises(ConfigError, match="fractoin"):
        initialize(image, [[1, 1]], settings={"fractoin": 0.2})
    with pytest.raises(ConfigError, match="CannySettings"):
        initialize(image, [[1, 1]], "canny", ContrastSettings())
    assert initialization_settings("contrast", {"fraction": 0.1}) == ContrastSettings(fraction=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        {"fraction": 1.0},
        {"fraction": -0.1},
        {"window": 32},
        {"percentile": 101},
        {"connectivity": 6},
        {"retries": -1},
    ],
)
def test_contrast_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ContrastSettings(**settings)


@pytest.mark.parametrize("points", [[[64, 0]], [[0, 80]], [[-1, 3]], [[1, 2, 3]], [[1.5, 2.0]]])
def test_points_outside_the_image_are_refused(points: list[list[float]]) -> None:
    image, _ = blob()
    with pytest.raises(DataError):
        initialize(image, points)


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_images_that_are_not_gray_bytes_are_refused(image: np.ndarray) -> None:
    with pytest.raises(DataError, match="gray 8-bit"):
        initialize(image, np.zeros((0, 2), int))
