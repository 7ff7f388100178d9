"""Descriptors that mean what they say, and clusters that come out the same every time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from istd.clusters import DESCRIPTOR_NAMES, MIN_SIDE, describe, fit_clusters
from istd.clusters import descriptors as families
from istd.errors import ConfigError, DataError

Golden = Callable[[str], dict[str, Any]]


def named(image: np.ndarray) -> dict[str, float]:
    return dict(zip(DESCRIPTOR_NAMES, describe(image).tolist(), strict=True))


def noise(
    seed: int = 0, size: tuple[int, int] = (96, 128), sigma: float = 1.0, std: float = 30.0
) -> np.ndarray:
    values = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=size), (0, 0), sigma)
    return np.clip(120 + values / values.std() * std, 0, 255).astype(np.uint8)


# --- descriptors -----------------------------------------------------------------------------------------


def test_names_are_fixed_unique_and_say_nothing_of_size() -> None:
    assert len(set(DESCRIPTOR_NAMES)) == len(DESCRIPTOR_NAMES) == len(describe(noise())) >= 50
    assert not any({"width", "height", "size"} & set(name.split("_")) for name in DESCRIPTOR_NAMES)
    prepared = families.Prepared(noise())
    for names, family in families._FAMILIES:
        assert tuple(family(prepared)) == names


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((MIN_SIDE, MIN_SIDE), np.uint8),
        np.full((200, 17), 255, np.uint8),
        np.eye(64, dtype=np.uint8) * 255,
        np.random.default_rng(0).integers(0, 256, (37, 53), dtype=np.uint8),
        np.tile(np.array([0, 255], np.uint8), (32, 16)),
        np.repeat(np.arange(128, dtype=np.uint8)[:, None], 40, axis=1),
    ],
)
def test_every_image_has_finite_descriptors(image: np.ndarray) -> None:
    with np.errstate(all="raise", under="ignore"):
        values = describe(image)
    assert values.dtype == np.float64
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(values, describe(np.asfortranarray(image)))


def test_descriptors_do_not_depend_on_where_the_image_lies_in_memory() -> None:
    rng = np.random.default_rng(0)
    for image in (noise(1, (37, 53), 0.7), noise(2, (64, 61), 2.0)):
        expected = describe(image)
        kept = []
        for _ in range(20):
            kept.append(np.zeros(int(rng.integers(1, 5000)), np.uint8))  # moves later allocations about
            start = int(rng.integers(64))
            copy = np.zeros(image.size + 64, np.uint8)[start : start + image.size].reshape(image.shape)
            copy[:] = image
            np.testing.assert_array_equal(describe(copy), expected)


def test_intensity_descriptors_against_numpy() -> None:
    image = noise(1)
    found, values = named(image), image.astype(np.float64)
    assert found["mean"] == pytest.approx(values.mean())
    assert found["std"] == pytest.approx(values.std())
    z = (values - values.mean()) / values.std()
    assert found["skewness_log"] == pytest.approx(
        np.copysign(np.log1p(abs((z**3).mean())), (z**3).mean()), abs=1e-9
    )
    kurtosis = (z**4).mean() - 3
    assert found["kurtosis_log"] == pytest.approx(np.copysign(np.log1p(abs(kurtosis)), kurtosis), abs=1e-9)
    assert found["p50"] == np.percentile(values, 50, method="inverted_cdf")
    assert found["dynamic_range"] == np.ptp(values)
    ordered = np.sort(values.ravel() - values.min())
    rank = np.arange(1, ordered.size + 1)
    gini = 2 * (rank * ordered).sum() / (ordered.size * ordered.sum()) - (ordered.size + 1) / ordered.size
    assert found["gini"] == pytest.approx(gini, abs=1e-3)
    threshold, _ = cv2.threshold(image, 0, 255, cv2.THRESH_OTSU)
    assert found["otsu_threshold"] == threshold


def test_intensity_and_texture_agree_with_the_reference_where_they_are_the_same(golden: Golden) -> None:
    case = golden("10_image_metrics")
    columns = case["features"].tolist()
    for i, row in enumerate(case["values"]):
        expected, found = dict(zip(columns, row.tolist(), strict=True)), named(case[f"img_{i}"])
        for name, theirs in (
            ("mean", "mean"),
            ("std", "std"),
            ("entropy", "entropy_global"),
            ("gini", "gini_intensity"),
        ):
            assert found[name] == pytest.approx(expected[theirs], rel=2e-3, abs=2e-3), (i, name)
        for name, theirs in (("otsu_threshold", "otsu_thresh"), ("dynamic_range", "dynamic_range")):
            assert found[name] == expected[theirs]
        assert found["gradient_mean_log"] == pytest.approx(np.log1p(expected["grad_mean"]), rel=1e-5)
        assert found["gradient_energy_log"] == pytest.approx(np.log1p(expected["tenengrad"]), rel=1e-5)


def test_co_occurrence_against_a_plain_count() -> None:
    from istd.clusters._texture import _cooccurrence, _haralick

    levels = np.random.default_rng(0).integers(0, 32, (9, 7)).astype(np.int32)
    for down, right in ((0, 1), (2, 2), (1, 0), (1, -1), (4, -4)):
        counts = np.zeros((32, 32))
        for y in range(9):
            for x in range(7):
                if y + down < 9 and 0 <= x + right < 7:
                    counts[levels[y, x], levels[y + down, x + right]] += 1
                    counts[levels[y + down, x + right], levels[y, x]] += 1
        p = _cooccurrence(levels, down, right)
        np.testing.assert_allclose(p, counts / counts.sum())
        i, j = np.indices(p.shape)
        mean, contrast = (p * i).sum(), (p * (i - j) ** 2).sum()
        covariance = (p * (i - mean) * (j - mean)).sum() / (p * (i - mean) ** 2).sum()
        np.testing.assert_allclose(_haralick(p)[[0, 3]], [contrast, covariance])


def test_descriptors_follow_what_they_are_named_after() -> None:
    smooth, rough = named(noise(sigma=4)), named(noise(sigma=0.7))
    assert rough["noise_sigma_log"] > smooth["noise_sigma_log"]
    assert rough["spectrum_high"] > smooth["spectrum_high"]
    assert rough["spectrum_slope"] > smooth["spectrum_slope"]
    assert rough["glcm_contrast_log"] > smooth["glcm_contrast_log"]
    assert rough["edge_density"] > smooth["edge_density"]
    faint, strong = named(noise(std=8)), named(noise(std=40))
    assert strong["rms_contrast"] > 3 * faint["rms_contrast"]
    assert strong["local_contrast_fine_log"] > faint["local_contrast_fine_log"]
    waves = np.tile(120 + 60 * np.sin(np.arange(128) / 2), (96, 1)).astype(np.uint8)
    assert named(waves)["anisotropy"] > 0.9 > 0.3 > named(noise())["anisotropy"]
    assert named(waves)["spectrum_anisotropy"] > 0.9
    flat = np.full((96, 128), 60, np.uint8)
    dotted = flat.copy()
    dotted[8::16, 8::16] = 200
    assert named(dotted)["peak_density"] == pytest.approx(48 / flat.size * 1e3)
    assert named(dotted)["blob_p99_log"] > named(flat)["blob_p99_log"] == pytest.approx(0, abs=1e-3)


def test_descriptors_do_not_know_the_size_of_the_image() -> None:
    """Two halves of one texture are nearer to each other than to another texture, whatever their size."""
    big, small, other = noise(3, (256, 256), 2.0), noise(4, (128, 160), 2.0), noise(5, (256, 256), 0.7)
    scale = (
        np.stack([describe(noise(i, sigma=1 + i / 8, std=10 + 4 * i)) for i in range(12)]).std(axis=0) + 1e-9
    )
    same = np.abs(describe(big) - describe(small)) / scale
    different = np.abs(describe(big) - describe(other)) / scale
    assert np.median(same) < 0.5 * np.median(different)


@pytest.mark.parametrize(
    "image", [np.zeros((15, 40), np.uint8), np.zeros((40, 40)), np.zeros((40, 40, 3), np.uint8)]
)
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(DataError, match="cannot be described"):
        describe(image)


# --- clusters --------------------------------------------------------------------------------------------


def three_groups(seed: int = 0, per_group: int = 20, columns: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(3, columns)) * 10
    group = np.repeat(np.arange(3), per_group)
    return centers[group] + rng.normal(size=(len(group), columns)) * 0.3, group


def test_separate_groups_are_found() -> None:
    data, group = three_groups()
    clusters = fit_clusters(data, 3)
    assert clusters.num_clusters == 3
    for number in range(3):
        assert len(set(clusters.assignment[group == number])) == 1
    np.testing.assert_array_equal(clusters.predict(data), clusters.assignment)
    fresh, fresh_group = three_groups(per_group=5)
    predicted = clusters.predict(fresh)
    for number in range(3):
        assert set(predicted[fresh_group == number]) == set(clusters.assignment[group == number])


def test_constant_and_repeated_columns_are_dropped() -> None:
    data, _ = three_groups()
    extended = np.concatenate(
        [data, np.full((60, 1), 7.0), data[:, :1] * -3 + 1, 1e9 + data[:, :1] * 0], axis=1
    )
    clusters = fit_clusters(extended, 3)
    assert not set(clusters.columns.tolist()) & {12, 13, 14}
    correlation = np.corrcoef(data[:, clusters.columns], rowvar=False)
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 0.95
    assert len(fit_clusters(extended, 3, max_correlation=1.0).columns) >= len(clusters.columns)


def test_principal_axes_explain_the_variance_asked_for() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 10)) + rng.normal(size=(200, 10)) * 0.2
    clusters = fit_clusters(data, 4, variance=0.9)
    standard = (data[:, clusters.columns] - clusters.mean) / clusters.scale
    kept = clusters.embed(data).var(axis=0).sum() / standard.var(axis=0).sum()
    assert kept >= 0.9
    assert len(clusters.components) <= 4
    np.testing.assert_allclose(
        clusters.components @ clusters.components.T, np.eye(len(clusters.components)), atol=1e-12
    )


def test_the_number_of_clusters_scales_and_is_capped() -> None:
    rng = np.random.default_rng(0)
    assert fit_clusters(rng.normal(size=(256, 8))).num_clusters == 24  # 256 · 256/2755
    assert fit_clusters(rng.normal(size=(5, 8))).num_clusters == 1
    assert fit_clusters(rng.normal(size=(5, 8)), 99).num_clusters == 5
    same = fit_clusters(np.ones((6, 4)), 3)
    assert same.num_clusters == 1
    assert same.predict(np.zeros((2, 4))).tolist() == [0, 0]
    twice = fit_clusters(np.repeat(rng.normal(size=(3, 4)), 2, axis=0), 6)
    assert twice.num_clusters == 3
    assert fit_clusters(rng.normal(size=(1, 8)), 4).assignment.tolist() == [0]
    crowd = fit_clusters(rng.normal(size=(60, 6)), 30)
    assert np.bincount(crowd.assignment, minlength=crowd.num_clusters).min() >= 1


def test_the_same_seed_gives_the_same_bits_whatever_the_threads() -> None:
    data = np.random.default_rng(0).normal(size=(300, 20))
    expected = fit_clusters(data, 20, seed=7)
    again = fit_clusters(data, 20, seed=7)
    for key, array in vars(expected).items():
        np.testing.assert_array_equal(array, vars(again)[key])
    assert not np.array_equal(expected.centers, fit_clusters(data, 20, seed=8).centers)
    code = (
        "import numpy as np; from istd.clusters import fit_clusters;"
        "c = fit_clusters(np.random.default_rng(0).normal(size=(300, 20)), 20, seed=7);"
        "print(c.centers.tobytes().hex())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    child = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == expected.centers.tobytes().hex()


def test_fitting_leaves_the_global_generator_alone() -> None:
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr] # noqa: NPY002
    fit_clusters(np.random.default_rng(0).normal(size=(50, 5)), 5)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # type: ignore[index] # noqa: NPY002


def test_bad_input_is_named() -> None:
    data, _ = three_groups()
    broken = data.copy()
    broken[4, 2] = np.nan
    with pytest.raises(DataError, match="image 4, descriptor 2"):
        fit_clusters(broken)
    with pytest.raises(DataError, match="no images"):
        fit_clusters(np.zeros((0, 5)))
    with pytest.raises(DataError, match="one row per image"):
        fit_clusters(np.zeros(5))
    with pytest.raises(DataError, match="described otherwise"):
        fit_clusters(data, 3).predict(data[:, :5])
    with pytest.raises(ConfigError, match="positive"):
        fit_clusters(data, 0)
    with pytest.raises(ConfigError, match="out of range"):
        fit_clusters(data, 3, variance=0.0)
