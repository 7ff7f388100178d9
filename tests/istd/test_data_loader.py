from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from istd.data import AugmentSettings, Batch, CropLoader, ImageSet
from istd.errors import ConfigError, DataError
from istd.ragged import RaggedImages

SIZES = [(40, 50), (20, 64), (33, 33), (64, 20), (12, 15), (40, 40), (50, 30)]


def image_set(seed: int = 0) -> tuple[ImageSet, RaggedImages]:
    """Images whose pixels tell where they are from; labels equal to the image / 255; points on some."""
    rng = np.random.default_rng(seed)
    arrays = [rng.integers(1, 256, size).astype(np.uint8) for size in SIZES]
    points = tuple(
        np.empty((0, 2), np.int64) if i % 3 == 2 else rng.integers(0, min(size), (1 + i % 3, 2))
        for i, size in enumerate(SIZES)
    )
    images = ImageSet(tuple(map(str, range(len(SIZES)))), RaggedImages.from_arrays(arrays), None, points)
    labels = RaggedImages.from_arrays([array / np.float32(255) for array in arrays])
    return images, labels


def loader(**options: object) -> CropLoader:
    images, labels = image_set()
    settings: dict[str, object] = {"crop": 16, "batch_size": 3, "seed": 0, "stream": "train", **options}
    return CropLoader(images, labels, **settings)  # type: ignore[arg-type]


def same(first: Batch, second: Batch) -> bool:
    return all(torch.equal(getattr(first, key), getattr(second, key)) for key in ("index", "image", "label"))


def find(crop: np.ndarray, image: np.ndarray) -> list[tuple[int, int]]:
    """Where `crop` lies in `image`."""
    windows = np.lib.stride_tricks.sliding_window_view(image, crop.shape)
    return [tuple(place) for place in np.argwhere((windows == crop).all((2, 3)))]


def test_a_batch_is_crops_of_the_images_it_names() -> None:
    crops = loader(crop=12)
    batch = crops.batch(0, 0)
    assert batch.image.shape == batch.label.shape == (3, 1, 12, 12)
    assert batch.image.dtype == batch.label.dtype == torch.float32
    assert batch.index.dtype == torch.int64
    assert torch.equal(batch.image, batch.label)
    for index, crop in zip(batch.index, batch.image, strict=True):
        pixels = (crop[0] * 255).round().numpy().astype(np.uint8)
        assert len(find(pixels, crops.images.images.image(int(index)).numpy())) == 1


def test_images_smaller_than_the_crop_are_filled_up_with_zeros() -> None:
    batch = loader(crop=32, indices=[4], batch_size=2).batch(0, 0)
    images, _ = image_set()
    for crop in (*batch.image, *batch.label):
        np.testing.assert_allclose(crop[0, :12, :15] * 255, images.images.image(4).numpy(), atol=1e-4)
        assert crop[0, 12:].abs().sum() == crop[0, :, 15:].abs().sum() == 0


def test_one_side_smaller_than_the_crop() -> None:
    crops = loader(crop=32, indices=[1], batch_size=1, target_fraction=0.0)
    lefts = set()
    for epoch in range(30):
        pixels = (crops.batch(epoch, 0).image[0, 0, :20] * 255).round().numpy().astype(np.uint8)
        ((top, left),) = find(pixels, crops.images.images.image(1).numpy())
        assert top == 0
        lefts.add(left)
    assert len(lefts) > 10


def test_an_epoch_visits_the_pool_once_in_a_new_order() -> None:
    crops = loader(batch_size=2)
    assert crops.steps_per_epoch == 3
    orders = [torch.cat([batch.index for batch in crops.epoch(epoch)]).tolist() for epoch in range(8)]
    assert all(len(set(order)) == 6 for order in orders)
    assert len({tuple(order) for order in orders}) == 8
    assert {index for order in orders for index in order} == set(range(7))


def test_batches_do_not_depend_on_what_was_asked_before() -> None:
    options = {"augment": True, "batch_size": 2}
    straight = [batch for epoch in range(2) for batch in loader(**options).epoch(epoch)]
    crops = loader(**options)
    for position in (5, 0, 3, 3, 1):
        assert same(crops.batch(position // 3, position % 3), straight[position])
    resumed = list(loader(**options).epoch(1, start_step=1))
    assert len(resumed) == 2
    assert all(same(a, b) for a, b in zip(resumed, straight[4:], strict=True))


def test_the_global_generator_is_neither_read_nor_changed() -> None:
    crops = loader(augment=True)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    first, state = crops.batch(0, 0), torch.get_rng_state()
    torch.manual_seed(1)
    assert same(crops.batch(0, 0), first)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("change", [{"seed": 1}, {"seed": -1}, {"stream": "held out"}])
def test_seed_and_stream_make_a_difference(change: dict[str, object]) -> None:
    assert not same(loader().batch(0, 0), loader(**change).batch(0, 0))
    assert same(loader(**change).batch(2, 1), loader(**change).batch(2, 1))


def test_changed_labels_show_in_the_next_batch() -> None:
    crops = loader(indices=[0], batch_size=1)
    before = crops.batch(0, 0)
    crops.labels.set_image(0, np.full(SIZES[0], 0.25))
    after = crops.batch(0, 0)
    assert torch.equal(after.image, before.image)
    assert after.label.unique().tolist() == [0.25]


def test_masks_serve_as_labels() -> None:
    images, labels = image_set()
    masks = RaggedImages.from_arrays([labels.image(i).numpy() > 0.5 for i in range(len(labels))], torch.uint8)
    soft, hard = (
        CropLoader(images, some, crop=16, batch_size=4, seed=0).batch(0, 0).label for some in (labels, masks)
    )
    assert torch.equal(hard, (soft > 0.5).float())


def test_a_pool_smaller_than_a_batch_is_repeated() -> None:
    crops = loader(indices=[1, 4], batch_size=5)
    assert crops.steps_per_epoch == 1
    (batch,) = crops.epoch(0)
    assert sorted(Counter(batch.index.tolist()).values()) == [2, 3]
    assert loader(indices=[1, 4], batch_size=2).steps_per_epoch == 1
    assert loader(indices=[1, 4, 5], batch_size=2).steps_per_epoch == 1


def test_the_pool_can_change_between_epochs() -> None:
    crops = loader(indices=[0, 1, 2])
    assert crops.indices == (0, 1, 2)
    crops.batch(0, 0)
    crops.indices = [3, 5, 6]
    assert sorted(crops.batch(0, 0).index.tolist()) == [3, 5, 6]
    assert same(crops.batch(4, 0), loader(indices=[3, 5, 6]).batch(4, 0))


def test_targeted_crops_contain_a_point_and_the_others_are_anywhere() -> None:
    images, labels = image_set()
    marks = [np.zeros(size, np.float32) for size in SIZES]
    for mark, points in zip(marks, images.points, strict=True):
        mark[tuple(points.T)] = 1
    with_points = [i for i, points in enumerate(images.points) if len(points)]
    stored = RaggedImages.from_arrays(marks)

    def hits(target_fraction: float, indices: list[int]) -> list[float]:
        crops = CropLoader(
            images,
            stored,
            indices=indices,
            crop=7,
            batch_size=len(indices),
            seed=0,
            target_fraction=target_fraction,
        )
        labels = torch.cat([crops.batch(epoch, 0).label for epoch in range(60)])
        return labels.amax((1, 2, 3)).tolist()

    assert min(hits(1.0, with_points)) == 1
    assert 0.4 < np.mean(hits(0.5, with_points)) < 0.75
    assert np.mean(hits(0.0, with_points)) < 0.35
    assert max(hits(1.0, [2, 5])) == 0
    assert labels.sizes == stored.sizes


def test_targets_lie_anywhere_in_targeted_crops_and_each_is_chosen() -> None:
    mark = np.zeros((60, 60), np.float32)
    points = np.array([[30, 30], [5, 50]])
    mark[30, 30], mark[5, 50] = 0.5, 1
    images = ImageSet(("a",), RaggedImages.from_arrays([np.ones((60, 60), np.uint8)]), None, (points,))
    crops = CropLoader(
        images, RaggedImages.from_arrays([mark]), crop=9, batch_size=1, seed=0, target_fraction=1.0
    )
    places: dict[float, set[tuple[int, int]]] = {0.5: set(), 1.0: set()}
    for epoch in range(300):
        label = crops.batch(epoch, 0).label[0, 0]
        ((row, column),) = torch.nonzero(label).tolist()
        places[float(label.max())].add((row, column))
    assert {row for row, _ in places[0.5]} == {column for _, column in places[0.5]} == set(range(9))
    # Near the upper border the window cannot start above the image.
    assert {row for row, _ in places[1.0]} == set(range(6))


def test_random_crops_reach_every_place() -> None:
    image = np.arange(36, dtype=np.uint8).reshape(6, 6)
    images = ImageSet(("a",), RaggedImages.from_arrays([image]), None, (np.empty((0, 2), np.int64),))
    crops = CropLoader(images, images.images, crop=4, batch_size=1, seed=0)
    corners = Counter(int(crops.batch(epoch, 0).label[0, 0, 0, 0]) for epoch in range(270))
    assert set(corners) == {0, 1, 2, 6, 7, 8, 12, 13, 14}
    assert min(corners.values()) > 12


def test_augmentation_is_on_request() -> None:
    images, labels = image_set()
    plain = CropLoader(images, labels, crop=8, batch_size=7, seed=0)
    changed = CropLoader(images, labels, crop=8, batch_size=7, seed=0, augment=True)
    gentle = CropLoader(
        images, labels, crop=8, batch_size=7, seed=0, augment=AugmentSettings(probability=0.0)
    )
    assert torch.equal(plain.batch(0, 0).index, changed.batch(0, 0).index)
    assert not torch.equal(plain.batch(0, 0).image, changed.batch(0, 0).image)
    assert torch.equal(plain.batch(0, 0).image, gentle.batch(0, 0).image)


@pytest.mark.parametrize(
    "options", [{"crop": 0}, {"batch_size": 0}, {"target_fraction": 1.5}, {"target_fraction": float("nan")}]
)
def test_senseless_numbers_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        loader(**options)


@pytest.mark.parametrize("indices", [[], [0, 0], [7], [-1]])
def test_senseless_pools_are_refused(indices: list[int]) -> None:
    with pytest.raises(DataError, match="pool"):
        loader(indices=indices)


def test_labels_of_other_images_are_refused() -> None:
    images, _ = image_set()
    with pytest.raises(DataError, match="do not fit"):
        CropLoader(images, RaggedImages.from_arrays([np.zeros((3, 3))]), crop=4, batch_size=1, seed=0)


def test_steps_beyond_the_epoch_are_refused() -> None:
    crops = loader()
    for step in (-1, crops.steps_per_epoch):
        with pytest.raises(IndexError):
            crops.batch(0, step)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_another_device_sees_the_same_batches() -> None:
    images, labels = image_set()
    options = {"crop": 16, "batch_size": 4, "seed": 0, "augment": True}
    host = CropLoader(images, labels, **options)  # type: ignore[arg-type]
    device = CropLoader(images.to("cuda"), labels.to("cuda"), **options)  # type: ignore[arg-type]
    for epoch in range(5):
        first, second = host.batch(epoch, 0), device.batch(epoch, 0)
        assert second.image.device.type == "cuda"
        assert torch.equal(first.index, second.index.cpu())
        assert torch.allclose(first.image, second.image.cpu(), atol=1e-5)
        assert torch.allclose(first.label, second.label.cpu(), atol=1e-5)


def test_parts_of_a_batch_are_its_crops_bit_for_bit() -> None:
    """Several processes make a part each: what is drawn for the others must not be drawn differently."""
    shared: dict[str, object] = {"batch_size": 6, "augment": AugmentSettings(probability=1.0), "seed": 5}
    whole = loader(**shared)
    parts = [loader(part=(first, 3), **shared) for first in (0, 3)]
    for epoch in range(4):
        batch, *halves = (one.batch(epoch, 0) for one in (whole, *parts))
        for key in ("index", "image", "label", "top", "left"):
            joined = torch.cat([getattr(half, key) for half in halves])
            assert torch.equal(joined, getattr(batch, key)), key
