"""Fuzzing of metrics, tiling and prediction: any input has an answer or an error of ours."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import JSON, answer, damaged, fuzz, put
from hypothesis import given
from hypothesis import strategies as st

from istd.engine import PredictOptions, Tiling, find_images, predict_images
from istd.engine.tiling import probability_maps_of
from istd.errors import ConfigError, DataError
from istd.metrics import DetectionMetrics, IoU, MetricConvention, ThresholdSweep, pixel_counts, target_counts
from istd.metrics.functional import binarize

_PNG = bytes.fromhex(  # 2 × 3 pixels, gray
    "89504e470d0a1a0a0000000d4948445200000003000000020800000000b81f39"
    "c60000001049444154789c6360f8cfc020f0810100081202006ff3670c000000"
    "0049454e44ae426082"
)
_NUMBERS = st.integers(-2, 9) | st.floats() | st.sampled_from([10**400, 2**40]) | JSON


@st.composite
def maps(draw: st.DrawFn) -> Any:
    """Something that is a map, or is not."""
    shape = draw(
        st.sampled_from([(), (0,), (4,), (4, 5), (1, 4, 5), (1, 1, 4, 5), (2, 4, 5), (0, 5), (5, 4)])
    )
    dtype = draw(st.sampled_from(["bool", "uint8", "int64", "float16", "float32", "float64", "complex64"]))
    values = np.random.default_rng(draw(st.integers(0, 99))).random(shape) * draw(st.sampled_from([1, 2, -1]))
    if dtype.startswith("float") and values.size and draw(st.integers(0, 3)) == 0:
        values.reshape(-1)[0] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    array = np.asarray(values > 0.7 if dtype == "bool" else values.astype(dtype))
    kind = draw(st.sampled_from(["array", "array", "tensor", "tensor", "bfloat16", "list", "other"]))
    if kind == "array":
        return array
    if kind == "list":
        return [torch.as_tensor(array), torch.as_tensor(array)] if draw(st.booleans()) else array.tolist()
    if kind == "other":
        return draw(JSON)
    return (
        torch.as_tensor(array).bfloat16()
        if kind == "bfloat16" and dtype != "complex64"
        else torch.as_tensor(array)
    )


@fuzz(6)
@given(maps(), maps(), st.sampled_from(["first", "nearest", "hungarian", "overlap"]))
def test_metrics_count_or_refuse(pred: Any, target: Any, matching: Any) -> None:
    convention = MetricConvention(matching=matching)
    pixels = answer(lambda: pixel_counts(pred, target))
    if pixels is not None:
        assert min(pixels.tp, pixels.fp, pixels.fn, pixels.tn) >= 0
        assert pixels.total == np.asarray(binarize(target)).size
    targets = answer(lambda: target_counts(pred, target, convention))
    if targets is not None:
        assert 0 <= targets.detected <= targets.targets
    sweep = ThresholdSweep([0.1, 0.5], convention)
    answer(lambda: sweep.update(pred, target))
    assert (sweep.curves().iou <= 1).all()


@fuzz(4)
@given(maps(), maps(), st.booleans())
def test_metric_modules_count_or_refuse(pred: Any, target: Any, logits: bool) -> None:
    for make in (IoU, DetectionMetrics):
        metric = make(from_logits=logits)
        answer(lambda metric=metric: metric.update(pred, target))
        metric._update_count = 1  # torchmetrics warns of a metric that was refused all
        found = metric.compute()
        values = found.values() if isinstance(found, dict) else [found]
        assert all(0 <= float(value) <= 1 for value in values)


_FIELDS = ["threshold", "connectivity", "distance", "matching", "empty_niou", "false_area", "unknown"]


@fuzz(4)
@given(st.dictionaries(st.sampled_from(_FIELDS), _NUMBERS | st.sampled_from(["one", "overlap", 4])) | JSON)
def test_conventions_are_taken_or_refused(values: Any) -> None:
    convention = answer(lambda: MetricConvention.from_dict(values))
    if convention is not None:
        mask = np.eye(4, dtype=bool)
        assert target_counts(mask, mask, convention).targets == (1 if convention.connectivity == 8 else 4)
        assert MetricConvention.from_dict(convention.to_dict()) == convention


@fuzz(3)
@given(st.lists(_NUMBERS, max_size=3) | _NUMBERS)
def test_thresholds_are_taken_or_refused(levels: Any) -> None:
    sweep = answer(lambda: ThresholdSweep(levels))
    assert sweep is None or (np.diff(sweep.thresholds) > 0).all()


@fuzz(6)
@given(
    st.dictionaries(
        st.sampled_from(["tile", "overlap", "batch_size", "stride"]), st.integers(-2, 9) | _NUMBERS
    ),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=3),
    st.booleans(),
)
def test_tilings_cover_every_pixel_or_are_refused(
    values: Any, sizes: list[tuple[int, int]], flips: bool
) -> None:
    tiling = answer(lambda: Tiling(**{"overlap": 0, **values}, flips=flips))
    if tiling is None:
        return
    images = [torch.full(size, 51, dtype=torch.uint8) for size in sizes]
    maps = probability_maps_of(lambda pixels: torch.logit(pixels), images, tiling)
    for image, found in zip(images, maps, strict=True):
        assert found.shape == image.shape
        assert torch.allclose(found, torch.tensor(0.2), atol=1e-5)


class _Bright:
    """A detector that needs no training: bright pixels are targets."""

    stride = 1

    def deployed(self) -> _Bright:
        return self

    def fingerprint(self) -> str:
        return "bright"

    def logits(self, image: torch.Tensor, role: str = "student") -> torch.Tensor:
        return (image - 0.5) * 20


@fuzz(2)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "a.png",
                    "A.png",
                    "ü.jpg",
                    "x.y.tif",
                    "b" * 240 + ".png",
                    "n\nl.png",
                    "a b.bmp",
                    "\udcff.png",
                ]
            ),
            damaged(_PNG),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda one: one[0],
    ),
    st.sampled_from([(), ("masks",), ("masks", "overlays", "probabilities")]),
    st.booleans(),
)
def test_any_image_files_are_answered_or_left_out(
    files: list[tuple[str, bytes]], pictures: tuple[str, ...], again: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files:
            put(Path(folder) / "in" / name, data)
        paths = find_images([Path(folder) / "in"])
        assert len(paths) == len(files)
        out = Path(folder) / "out"
        for skip in (False, True) if again else (False,):
            options = PredictOptions(pictures=pictures, skip_existing=skip)
            done = predict_images(_Bright(), paths, out, options)  # type: ignore[arg-type]
            assert len(done.answers) + len(done.failures) == len(files)
            assert all(error.where == str(path) for path, error in done.failures)
            assert done.skipped == (len(done.answers) if skip else 0)
        assert (out / "targets.csv").read_text(encoding="utf-8").startswith("image,")


@fuzz(4)
@given(
    st.dictionaries(
        st.sampled_from(["role", "threshold", "connectivity", "min_area", "pictures", "tables"]),
        _NUMBERS | st.sampled_from([0.5, 4, ("masks",), ("csv",), ("no",)]),
        max_size=2,
    )
)
def test_prediction_options_are_taken_or_refused(values: dict[str, Any]) -> None:
    options = answer(lambda: PredictOptions(**values))
    if options is not None:
        assert 0 <= options.threshold <= 1
        assert options.min_area >= 1


@fuzz(4)
@given(
    st.lists(
        st.text(max_size=8) | st.sampled_from(["~nobody-there/x", "a" * 5000, "[", "**", "nul\0", ""]),
        max_size=3,
    )
)
def test_sources_of_images_are_found_or_named(sources: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        put(Path(folder) / "a.png", _PNG)
        patch.chdir(folder)
        found = answer(lambda: find_images(sources))
    assert found is None or set(found) == {Path("a.png")} or all(path.suffix == ".png" for path in found)


# What the fuzzing found.


def test_maps_that_are_not_numbers_are_refused() -> None:
    good = np.zeros((4, 5), bool)
    for bad, words in (
        (np.full((4, 5), np.nan), "not a number"),
        (np.full((4, 5), "x"), "real numbers"),
        (np.zeros((4, 5), complex), "real numbers"),
        ([[0, 1], [0]], "no map"),
    ):
        with pytest.raises(DataError, match=words):
            pixel_counts(bad, good)  # type: ignore[arg-type]
    assert pixel_counts(torch.ones(4, 5, dtype=torch.bfloat16), np.ones((4, 5))).tp == 20


def test_sequences_for_metrics_hold_tensors() -> None:
    for preds in ("ab", ["a", "b"], 3, [np.zeros((2, 2))]):
        with pytest.raises(DataError):
            IoU().update(preds, [torch.zeros(2, 2)] * 2)  # type: ignore[arg-type]


def test_maps_without_a_pixel_are_refused() -> None:
    with pytest.raises(DataError, match="not maps"):
        IoU().update(torch.zeros(0, 5), torch.zeros(0, 5))
    IoU().update(torch.zeros(0, 4, 5), torch.zeros(0, 4, 5))  # no image, which is fine


@pytest.mark.parametrize(
    "values", [{"threshold": float("nan")}, {"threshold": -0.1}, {"min_area": 0}, {"connectivity": 6}]
)
def test_prediction_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PredictOptions(**values)


@pytest.mark.parametrize("values", [{"tile": 1.5}, {"overlap": True}, {"batch_size": None}])
def test_tilings_are_whole_numbers(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no whole number"):
        Tiling(**values)


def test_an_image_whose_name_is_no_text_does_not_end_a_prediction(tmp_path: Path) -> None:
    put(tmp_path / "in" / "\udcff.png", _PNG)
    done = predict_images(_Bright(), find_images([tmp_path / "in"]), tmp_path / "out")  # type: ignore[arg-type]
    assert len(done.answers) == 1
    assert (tmp_path / "out" / "targets.json").is_file()


def test_names_of_no_number_are_no_convention() -> None:
    with pytest.raises(ConfigError):
        MetricConvention(threshold="0.5")  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        MetricConvention.from_dict([1])  # type: ignore[arg-type]
