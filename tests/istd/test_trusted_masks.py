"""Masks train nothing unless a run says so; a few trusted ones calibrate the others and stay as they are."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from istd.data import Dataset, ImageSet, Record
from istd.engine import TrainConfig
from istd.engine.corpus import Corpus
from istd.engine.label_state import describe_trusted, resume_labels, start_labels, update_labels
from istd.engine.methods import Full
from istd.engine.trusted import draw_trusted
from istd.errors import ConfigError, DataError
from istd.labels import LevelsSettings, calibrate
from istd.ragged import ImageSource, RaggedImages

CPU = torch.device("cpu")
SIDE = 48


def image_set(prefix: str, count: int, radius: float, masks: bool = True) -> ImageSet:
    """A Gaussian target in each image; the annotator draws discs of `radius`."""
    y, x = np.mgrid[:SIDE, :SIDE]
    distance = [(y - 20 - number % 5) ** 2 + (x - 22) ** 2 for number in range(count)]
    images = [np.rint(50 + 100 * np.exp(-one / 8)).astype(np.uint8) for one in distance]
    truth = [(one <= radius**2).astype(np.uint8) for one in distance]
    return ImageSet(
        tuple(f"{prefix}{number}" for number in range(count)),
        RaggedImages.from_arrays(images, torch.uint8, CPU),
        RaggedImages.from_arrays(truth, torch.uint8, CPU) if masks else None,
        tuple(np.array([[20 + number % 5, 22]]) for number in range(count)),
    )


class Drawn(Dataset):
    """The images of `corpus`, with the masks of some. It notes whose it was asked for."""

    def __init__(self, images: ImageSet, masked: Container[int]) -> None:
        super().__init__(Path("drawn"), "drawn", {"train": images.names})
        self._images, self._masked = images, masked
        self.asked: list[int] = []

    def _read(self, name: str) -> Record:
        images, number = self._images, self._images.names.index(name)
        self.asked.append(number)
        assert images.masks is not None
        mask = images.masks.image(number).numpy() > 0 if number in self._masked else None
        return Record(name, images.images.image(number).numpy(), mask, images.points[number])


def corpus(radius: float = 3.0, masks: bool = True, masked: Container[int] | None = None) -> Corpus:
    """Twelve training images with masks, or without; those `masked` alone have some."""
    whole, val = image_set("t", 12, radius), image_set("v", 3, radius, masks)
    dataset = Drawn(whole, (range(12) if masks else ()) if masked is None else masked)
    train = image_set("t", 12, radius, masks and masked is None)
    return Corpus(dataset, train, val, "hash", 0.3, 0.1)


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(data="x", **{"method": "pal", "label_init": "levels", **changes})


def test_the_draw_is_fixed_for_all_seeds_and_methods() -> None:
    given = corpus()
    five = list(draw_trusted(given, config(trusted_masks=5)))
    assert len(set(five)) == 5
    assert five == sorted(five)
    for changes in ({"seed": 7}, {"method": "lesps"}, {"method": "semantic-prior"}, {"backbone": "alclnet"}):
        assert list(draw_trusted(given, config(trusted_masks=5, **changes))) == five
    assert list(draw_trusted(given, config(trusted_masks=5, val_seed=1))) != five
    assert set(five) < set(draw_trusted(given, config(trusted_masks=8)))
    assert draw_trusted(given, config()) == {}


def test_only_trusted_masks_are_looked_at_and_the_others_need_not_exist(tmp_path: Path) -> None:
    given = corpus()
    five = draw_trusted(given, config(trusted_masks=5))
    assert isinstance(given.dataset, Drawn)
    assert sorted(given.dataset.asked) == list(five)
    some = corpus(masked=(2, 7, 9))
    assert some.train.masks is None
    state = start_labels(tmp_path / "labels.h5", some, config(trusted_masks=3), CPU)
    assert state.trusted == (2, 7, 9)
    whole = image_set("t", 12, 3.0)
    for number in state.trusted:
        assert torch.equal(state.train.image(number), whole.masks.image(number).float())  # type: ignore[union-attr]
    assert state.evolving_indices == [0, 1, 3, 4, 5, 6, 8, 10, 11]
    with pytest.raises(DataError, match="fewer training masks"):
        start_labels(tmp_path / "labels.h5", some, config(trusted_masks=4), CPU)


def images(source: ImageSource) -> list[torch.Tensor]:
    return [source.image(number) for number in range(len(source))]


@pytest.mark.parametrize("start", ["levels", "contrast", "canny", "points"])
def test_masks_train_nothing_unless_asked(tmp_path: Path, start: str) -> None:
    made = [
        start_labels(tmp_path / f"{index}.h5", given, config(label_init=start), CPU)
        for index, given in enumerate((corpus(1.0), corpus(6.0), corpus(masks=False)))
    ]
    assert all(state.trusted == () for state in made)
    assert describe_trusted(made[0], corpus()) == ""
    for state in made[1:]:
        assert all(map(torch.equal, images(state.train), images(made[0].train)))
        assert all(map(torch.equal, images(state.val), images(made[0].val)))
        assert state.store.settings == made[0].store.settings


@pytest.mark.parametrize("start", ["levels", "contrast"])
def test_trusted_masks_are_labels_for_good_and_calibrate_the_others(tmp_path: Path, start: str) -> None:
    wide, narrow = corpus(4.0), corpus(1.5)
    sizes = []
    for index, given in enumerate((wide, narrow)):
        chosen = config(trusted_masks=4, label_init=start)
        path = tmp_path / f"{index}.h5"
        state = start_labels(path, given, chosen, CPU)
        assert state.store.settings["trusted_masks"] == [given.train.names[one] for one in state.trusted]
        assert "4 trusted masks" in describe_trusted(state, given)
        assert "boundary fraction" in describe_trusted(state, given)
        masks = [given.train.masks.image(one).float() for one in state.trusted]  # type: ignore[union-attr]
        sizes.append(float(sum(state.train.image(one).sum() for one in state.evolving_indices)))
        before = {one: state.train.image(one).clone() for one in state.evolving_indices}
        update_labels(state, given, chosen, 50, lambda image: image * 0 - 20.0)
        assert all(
            torch.equal(state.train.image(one), mask) for one, mask in zip(state.trusted, masks, strict=True)
        )
        assert all(not torch.equal(state.train.image(one), label) for one, label in before.items())
        again = resume_labels(path, state.store.latest, given, CPU)
        assert again.trusted == state.trusted
        assert set(again.evolving_indices).isdisjoint(again.trusted)
    assert sizes[0] > 1.5 * sizes[1]


def test_trusting_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="trusted masks need masks"):
        start_labels(tmp_path / "l.h5", corpus(masks=False), config(trusted_masks=2), CPU)
    with pytest.raises(DataError, match="fewer training masks"):
        start_labels(tmp_path / "l.h5", corpus(), config(trusted_masks=13), CPU)
    with pytest.raises(ConfigError, match="trains on all masks"):
        Full(config(method="full", trusted_masks=3), nn.Conv2d(1, 1, 1))


def test_calibration_of_levels_follows_the_annotator() -> None:
    given = image_set("c", 5, 1.0)
    images = [given.images.image(number).numpy() for number in range(5)]
    fractions = []
    for true_level in (0.2, 0.35, 0.5, 0.65):
        masks = [image > 50 + 100 * true_level for image in images]
        found = calibrate(images, masks, given.points, LevelsSettings(visible=5.0), prior_images=0)
        assert isinstance(found.settings, LevelsSettings)
        assert replace(found.settings, fraction=0.15) == LevelsSettings(visible=5.0)
        assert found.niou > 0.9
        fractions.append(found.settings.fraction)
    assert np.all(np.diff(fractions) > 0)


def test_calibration_names_what_it_cannot_search() -> None:
    given = image_set("c", 1, 2.0)
    images, masks = [given.images.image(0).numpy()], [given.masks.image(0).numpy()]  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="noise floor"):
        calibrate(images, masks, given.points, LevelsSettings(), noise_floors=(0.0,))
    with pytest.raises(ConfigError, match="no boundary fraction"):
        calibrate(images, masks, given.points, object())  # type: ignore[arg-type]
