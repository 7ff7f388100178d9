"""Masks train nothing unless a run says so; a few trusted ones calibrate the others and stay as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from istd.data import ImageSet, SyntheticDataset
from istd.engine import TrainConfig
from istd.engine.corpus import Corpus
from istd.engine.label_state import describe_trusted, resume_labels, start_labels, update_labels
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


def corpus(radius: float = 3.0, masks: bool = True) -> Corpus:
    dataset = SyntheticDataset(num_train=1, num_val=1, num_test=1, size=(SIDE, SIDE))
    return Corpus(
        dataset, image_set("t", 12, radius, masks), image_set("v", 3, radius, masks), "hash", 0.3, 0.1
    )


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(data="x", **{"method": "pal", "label_init": "levels", **changes})


def test_the_draw_is_fixed_for_all_seeds_and_methods() -> None:
    train = corpus().train
    five = draw_trusted(train, config(trusted_masks=5))
    assert len(set(five)) == 5
    assert list(five) == sorted(five)
    for changes in ({"seed": 7}, {"method": "lesps"}, {"method": "semantic-prior"}, {"backbone": "alclnet"}):
        assert draw_trusted(train, config(trusted_masks=5, **changes)) == five
    assert draw_trusted(train, config(trusted_masks=5, val_seed=1)) != five
    assert set(five) < set(draw_trusted(train, config(trusted_masks=8)))
    assert draw_trusted(train, config()) == ()


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
    with pytest.raises(ConfigError, match="trusts all masks"):
        config(method="full", trusted_masks=3)


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
