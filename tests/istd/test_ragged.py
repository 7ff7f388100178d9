from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from istd.errors import DataError
from istd.ragged import LazySequence, RaggedImages

SIZES = [(5, 7), (1, 1), (12, 3), (8, 8)]


def make(dtype: type = np.uint8) -> tuple[list[np.ndarray], RaggedImages]:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 255, size).astype(dtype) for size in SIZES]
    return arrays, RaggedImages.from_arrays(arrays)


def naive_crop(array: np.ndarray, top: int, left: int, height: int, width: int, fill: float) -> np.ndarray:
    out = np.full((height, width), fill, array.dtype)
    for y in range(height):
        for x in range(width):
            if 0 <= top + y < array.shape[0] and 0 <= left + x < array.shape[1]:
                out[y, x] = array[top + y, left + x]
    return out


def test_images_come_back_as_they_were() -> None:
    arrays, ragged = make()
    assert len(ragged) == len(arrays)
    assert ragged.sizes == tuple(SIZES)
    assert ragged.dtype == torch.uint8
    for i, array in enumerate(arrays):
        np.testing.assert_array_equal(ragged.image(i).numpy(), array)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(-9, 14), st.integers(-9, 14)),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 255),
)
def test_crop_equals_slicing(windows: list[tuple[int, int, int]], height: int, width: int, fill: int) -> None:
    arrays, ragged = make()
    index, top, left = (torch.tensor(column) for column in zip(*windows, strict=True))
    crops = ragged.crop(index, top, left, (height, width), fill)
    assert crops.shape == (len(windows), 1, height, width)
    assert crops.dtype == torch.uint8
    for crop, (i, y, x) in zip(crops, windows, strict=True):
        np.testing.assert_array_equal(crop[0].numpy(), naive_crop(arrays[i], y, x, height, width, fill))


def test_square_crop_and_float_fill() -> None:
    ragged = RaggedImages.from_arrays([np.ones((2, 2))], dtype=torch.float32)
    crop = ragged.crop(torch.tensor([0]), torch.tensor([-1]), torch.tensor([0]), 3, fill=0.5)
    expected = [[0.5, 0.5, 0.5], [1, 1, 0.5], [1, 1, 0.5]]
    assert crop.dtype == torch.float32
    assert crop[0, 0].tolist() == expected


def test_the_view_and_set_image_change_the_store() -> None:
    arrays, ragged = make(np.float32)
    ragged.image(2)[0, 1] = -3
    assert ragged.crop(torch.tensor([2]), torch.tensor([0]), torch.tensor([1]), 1).item() == -3
    ragged.set_image(3, np.full((8, 8), 7.5))
    assert ragged.image(3).unique().tolist() == [7.5]
    ragged.set_image(0, torch.zeros(5, 7))
    assert ragged.image(0).abs().sum() == 0
    np.testing.assert_array_equal(ragged.image(1).numpy(), arrays[1])


def test_the_store_does_not_alias_its_sources() -> None:
    source = np.zeros((3, 3), np.float32)
    ragged = RaggedImages.from_arrays([source])
    source[:] = 1
    assert ragged.data.sum() == 0


def test_arrays_that_are_not_contiguous_or_writable() -> None:
    base = np.arange(24, dtype=np.uint8).reshape(4, 6)
    base.flags.writeable = False
    ragged = RaggedImages.from_arrays([base.T, base[:, ::-1]])
    np.testing.assert_array_equal(ragged.image(0).numpy(), base.T)
    np.testing.assert_array_equal(ragged.image(1).numpy(), base[:, ::-1])


def test_bool_masks_and_dtype() -> None:
    mask = np.eye(3, dtype=bool)
    assert RaggedImages.from_arrays([mask]).dtype == torch.bool
    assert RaggedImages.from_arrays([mask], dtype=torch.uint8).image(0).sum() == 3


def test_to_the_same_device_is_itself() -> None:
    _, ragged = make()
    assert ragged.to("cpu") is ragged


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_crops_on_another_device_are_the_same() -> None:
    _, ragged = make()
    where = torch.tensor([2, 0]), torch.tensor([-1, 3]), torch.tensor([1, -2])
    moved = ragged.to("cuda")
    assert moved.device.type == "cuda"
    assert torch.equal(moved.crop(*where, 4).cpu(), ragged.crop(*where, 4))
    assert torch.equal(moved.image(2).cpu(), ragged.image(2))


@pytest.mark.parametrize(
    "arrays",
    [
        [],
        [np.zeros((2, 2, 3))],
        [np.zeros((0, 4))],
        [np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.float32)],
    ],
)
def test_bad_arrays_are_refused(arrays: list[np.ndarray]) -> None:
    with pytest.raises(DataError):
        RaggedImages.from_arrays(arrays)


def test_an_image_of_another_size_is_refused() -> None:
    _, ragged = make()
    with pytest.raises(DataError, match="another size"):
        ragged.set_image(0, np.zeros((7, 5)))


def test_a_lazy_sequence_makes_its_items_when_they_are_asked_for() -> None:
    asked: list[int] = []

    def make(i: int) -> int:
        asked.append(i)
        return 10 * i

    items = LazySequence(make, 5)
    assert (len(items), items[-1], items[1:3], asked) == (5, 40, [10, 20], [4, 1, 2])
    assert list(items) == [0, 10, 20, 30, 40]
    with pytest.raises(IndexError):
        items[5]
