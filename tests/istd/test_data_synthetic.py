from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from istd.data import (
    SceneSettings,
    SyntheticDataset,
    centroid_points,
    load_split,
    make_scene,
    measure_targets,
)
from istd.data.synthetic import BACKGROUNDS, KINDS, draw_profile
from istd.data.synthetic._fields import power_law_field
from istd.errors import ConfigError

SIZE = (96, 128)


def one(kind: str = "blob", background: str = "sky", count: int = 1, **options: float) -> SceneSettings:
    return SceneSettings(backgrounds={background: 1}, kinds={kind: 1}, counts={count: 1}, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("background", list(BACKGROUNDS))
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_mask_is_exactly_the_rendered_target(background: str, kind: str) -> None:
    for seed in range(2):
        scene = make_scene(seed, SIZE, one(kind, background))
        assert scene.kind == background
        assert scene.image.shape == scene.mask.shape == SIZE
        assert scene.image.dtype == np.uint8
        rebuilt = np.clip(np.rint(scene.background + scene.signal + scene.noise), 0, 255)
        np.testing.assert_array_equal(scene.image, rebuilt)
        assert len(scene.targets) == 1, "a single target has a place in these scenes"
        (target,) = scene.targets
        assert scene.signal.max() == pytest.approx(target.contrast)
        np.testing.assert_array_equal(scene.mask, scene.signal >= 0.33 * target.contrast)
        assert target.kind == kind
        assert target.area == scene.mask.sum()
        assert scene.points.tolist() == [[target.y, target.x]]


def test_points_are_on_their_targets_and_targets_apart() -> None:
    scene = make_scene(4, (160, 160), one("irregular", count=5))
    assert len(scene.points) == 5
    labels, count = ndimage.label(scene.mask, np.ones((3, 3)))
    assert count == 5
    assert sorted(labels[y, x] for y, x in scene.points) == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(scene.points, centroid_points(scene.mask))
    for label in range(1, 6):
        near = ndimage.binary_dilation(labels == label, np.ones((3, 3)), 3)
        assert not (scene.mask & near & (labels != label)).any()
    assert [(t.y, t.x) for t in scene.targets] == [tuple(p) for p in scene.points]
    assert sum(t.area for t in scene.targets) == scene.mask.sum()


def test_empty_images() -> None:
    scene = make_scene(0, SIZE, one(count=0))
    assert not scene.mask.any()
    assert scene.points.shape == (0, 2)
    assert np.ptp(scene.image) > 0


def test_a_scene_is_a_function_of_its_seed() -> None:
    first, again, other = make_scene(7, SIZE), make_scene(np.random.default_rng(7), SIZE), make_scene(8, SIZE)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert not np.array_equal(first.image, other.image)


def test_the_contrast_obeys_its_settings() -> None:
    settings = one("point", contrast_median=50, contrast_spread=0, min_scr=0)
    scene = make_scene(1, SIZE, settings)
    assert scene.targets[0].contrast == pytest.approx(50)
    assert scene.signal.max() == pytest.approx(50)
    hard = one("point", "sea", contrast_median=20, contrast_spread=0, min_scr=4)
    for seed in range(4):
        for target in make_scene(seed, SIZE, hard).targets:
            assert target.contrast >= 20


@pytest.mark.parametrize(("kind", "area"), [("point", 9), ("blob", 40), ("streak", 30), ("irregular", 150)])
def test_profiles_have_the_area_they_are_asked_for(kind: str, area: int) -> None:
    areas = []
    for seed in range(6):
        profile, mask = draw_profile(np.random.default_rng(seed), kind, area)
        assert profile.max() == 1
        assert profile.min() >= 0
        np.testing.assert_array_equal(mask, profile >= 0.33)
        assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
        assert not np.pad(mask[2:-2, 2:-2], 2).__xor__(mask).any(), "the mask keeps clear of the border"
        areas.append(mask.sum())
    assert np.median(areas) == pytest.approx(area, rel=0.25)


def test_streaks_are_longer_than_blobs() -> None:
    def extent(kind: str, seed: int) -> float:
        _, mask = draw_profile(np.random.default_rng(seed), kind, 40)
        spread = np.linalg.eigvalsh(np.cov(np.argwhere(mask).T))
        return float(np.sqrt(spread[1] / spread[0]))

    streaks, blobs = ([extent(kind, seed) for seed in range(8)] for kind in ("streak", "blob"))
    assert min(streaks) > 1.7
    assert np.median(blobs) < 1.7


@pytest.mark.parametrize("beta", [0.0, 2.0, 3.0])
def test_clutter_has_the_spectrum_it_is_asked_for(beta: float) -> None:
    size = 256
    power = np.zeros((size, size))
    for seed in range(6):
        field = power_law_field(np.random.default_rng(seed), (size, size), beta)
        assert field.mean() == pytest.approx(0, abs=1e-9)
        assert field.std() == pytest.approx(1)
        window = np.hanning(size)[:, None] * np.hanning(size)
        power += np.abs(np.fft.fft2(field * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    used = (frequency > 0.04) & (frequency < 0.4)
    slope = np.polyfit(np.log(frequency[used]), np.log(power[used]), 1)[0]
    assert slope == pytest.approx(-beta, abs=0.15)


def test_clutter_is_band_limited_and_stretched() -> None:
    rng = np.random.default_rng(0)
    narrow = power_law_field(rng, (128, 128), 1, band=(0.1, 0.2))
    window = np.hanning(128)[:, None] * np.hanning(128)
    power = np.abs(np.fft.fft2(narrow * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128))
    assert power[(frequency < 0.07) | (frequency > 0.23)].sum() < 0.01 * power.sum()
    wide = power_law_field(rng, (128, 128), 2, stretch=(1, 5))
    across, along = (np.abs(np.diff(wide, axis=axis)).mean() for axis in (0, 1))
    assert across > 2 * along


def test_the_dataset_does_not_depend_on_order_or_counts() -> None:
    few, many = SyntheticDataset(1, 2, 1, SIZE, seed=5), SyntheticDataset(9, 3, 0, SIZE, seed=5)
    assert few.splits["val"] == ("val_00000", "val_00001")
    later = [many.read(name) for name in ("val_00001", "train_00008", "train_00000")]
    np.testing.assert_array_equal(few.read("val_00001").image, later[0].image)
    np.testing.assert_array_equal(few.read("train_00000").image, later[2].image)
    images = [many.read(name).image for name in ("train_00000", "train_00001", "val_00000")]
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
    other = SyntheticDataset(1, 0, 0, SIZE, seed=6).read("train_00000")
    assert not np.array_equal(images[0], other.image)


def test_the_dataset_is_a_dataset() -> None:
    data = SyntheticDataset(num_train=4, num_val=1, num_test=1, size=(64, 80), seed=1)
    images = load_split(data, "train")
    assert images.images.sizes == ((64, 80),) * 4
    assert images.masks is not None
    assert images.num_points > 0
    scene = data.scene("train_00002")
    np.testing.assert_array_equal(images.images.image(2), scene.image)
    np.testing.assert_array_equal(images.points[2], scene.points)


def test_the_population_resembles_real_sets() -> None:
    """Medians near those of SIRST v1 (area 20, contrast 52, peak 90, one target in most images)."""
    scenes = [make_scene(1000 + seed, (128, 128)) for seed in range(60)]
    found = [measure for scene in scenes for measure in measure_targets(scene.image, scene.mask)]
    assert 13 < np.median([measure.area for measure in found]) < 30
    assert 38 < np.median([measure.contrast for measure in found]) < 75
    assert 65 < np.median([measure.peak for measure in found]) < 120
    assert np.mean([measure.scr > 1 for measure in found]) > 0.95
    assert 40 <= sum(len(scene.points) == 1 for scene in scenes) < 60
    assert len({scene.kind for scene in scenes}) == 4


def test_measuring_a_target() -> None:
    image = np.full((40, 40), 100, np.uint8)
    image[::2] = 104
    mask = np.zeros((40, 40), bool)
    mask[20:22, 20:22] = True
    image[mask] = [150, 150, 150, 162]
    (found,) = measure_targets(image, mask)
    assert found.area == 4
    assert found.contrast == pytest.approx(153 - 102, abs=0.2)
    assert found.peak == pytest.approx(162 - 102, abs=0.2)
    assert found.scr == pytest.approx(51 / 2, rel=0.02)
    assert measure_targets(image, np.zeros_like(mask)) == []


@pytest.mark.parametrize(
    "options",
    [
        {"backgrounds": {"space": 1.0}},
        {"kinds": {}},
        {"kinds": {"blob": -1.0}},
        {"counts": {-1: 1.0}},
        {"counts": {1: 0.0}},
        {"contrast_range": (50.0, 20.0)},
        {"boundary": 1.0},
        {"area_limit": 0.0},
        {"area_median": 0.0},
        {"min_scr": -1.0},
    ],
)
def test_senseless_settings_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        SceneSettings(**options)  # type: ignore[arg-type]


def test_senseless_sizes_and_counts_are_refused() -> None:
    with pytest.raises(ConfigError):
        make_scene(0, (31, 64))
    for options in (
        {"num_train": -1},
        {"size": (8, 8)},
        {"seed": -1},
        {"num_train": 0, "num_val": 0, "num_test": 0},
    ):
        with pytest.raises(ConfigError):
            SyntheticDataset(**options)  # type: ignore[arg-type]
