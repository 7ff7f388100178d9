"""Places that look like targets, and crops that show them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from istd.data import CropLoader, ImageSet, distractors_of, find_distractors
from istd.engine import TrainConfig
from istd.errors import ConfigError
from istd.ragged import RaggedImages


def spots(places: list[tuple[int, int, int]], size: tuple[int, int] = (80, 90)) -> np.ndarray:
    image = np.full(size, 40, np.uint8)
    for y, x, level in places:
        image[y - 1 : y + 2, x - 1 : x + 2] = level
    return image


def test_spots_are_found_strongest_first_and_not_near_a_point() -> None:
    image = spots([(20, 20, 90), (20, 60, 200), (60, 30, 140), (60, 70, 250)], (80, 120))
    image[:, 95:] = 255  # wider than a target: no spot
    found = find_distractors(image, [(61, 69)])
    assert found.tolist() == [[20, 60], [60, 30], [20, 20]]
    assert find_distractors(image, [(61, 69)], count=1).tolist() == [[20, 60]]
    assert len(find_distractors(np.full((40, 40), 7, np.uint8), np.zeros((0, 2), int))) == 0


def image_set() -> ImageSet:
    arrays = [spots([(20, 20, 200), (60, 70, 250)]), spots([(10, 10, 99)], (48, 64)), spots([], (64, 64))]
    points = (np.array([[60, 70]]), np.zeros((0, 2), np.int64), np.array([[5, 6]]))
    images = RaggedImages.from_arrays(arrays)
    return ImageSet(names=("a", "b", "c"), images=images, masks=None, points=points)


def loader(images: ImageSet, **options: float) -> CropLoader:
    blank = [np.zeros(size, np.uint8) for size in images.images.sizes]
    labels = RaggedImages.from_arrays(blank)
    return CropLoader(
        images, labels, crop=16, batch_size=3, seed=1, distractors=distractors_of(images), **options
    )


def test_crops_show_a_distractor_of_their_image() -> None:
    images = image_set()
    places = distractors_of(images)
    assert [len(rows) for rows in places] == [1, 1, 0]
    crops = loader(images, target_fraction=0.0, distractor_fraction=1.0)
    for epoch in range(20):
        batch = crops.batch(epoch, 0)
        for index, top, left in zip(
            batch.index.tolist(), batch.top.tolist(), batch.left.tolist(), strict=True
        ):
            for y, x in places[index]:
                assert top <= y < top + 16, (index, epoch)
                assert left <= x < left + 16, (index, epoch)


def test_shares_of_the_crops() -> None:
    images = image_set()
    crops = loader(images, target_fraction=0.3, distractor_fraction=0.5)
    shown = {"target": 0, "distractor": 0}
    for epoch in range(400):
        batch = crops.batch(epoch, 0)
        number = batch.index.tolist().index(0)
        top, left = int(batch.top[number]), int(batch.left[number])
        shown["target"] += top <= 60 < top + 16 and left <= 70 < left + 16
        shown["distractor"] += top <= 20 < top + 16 and left <= 20 < left + 16
    assert shown["target"] / 400 == pytest.approx(0.3 + 0.2 * 0.06, abs=0.07)
    assert shown["distractor"] / 400 == pytest.approx(0.5 + 0.2 * 0.06, abs=0.07)


def test_without_distractors_the_crops_are_those_of_before() -> None:
    images = image_set()
    with_places, without = loader(images, target_fraction=0.4), loader(images, target_fraction=0.4)
    without._distractors = type(without._distractors)([np.zeros((0, 2), np.int64)] * 3)
    for step in range(5):
        first, second = with_places.batch(step, 0), without.batch(step, 0)
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.top, second.top)


def test_shares_above_all_are_refused() -> None:
    with pytest.raises(ConfigError, match="together"):
        loader(image_set(), target_fraction=0.7, distractor_fraction=0.4)
    with pytest.raises(ConfigError, match="together"):
        TrainConfig(data="x", target_fraction=0.7, distractor_fraction=0.4)
    TrainConfig(data="x", target_fraction=0.9, distractor_fraction=0.1)
