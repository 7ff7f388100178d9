"""The labels of a run: made from points, evolved by predictions, mined, stored, and watched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data import ImageSet
from ..labels import (
    REFERENCE_MINING,
    EvolutionSettings,
    InitialLabels,
    LabelStore,
    MiningSettings,
    SparseLabel,
    SparseLabels,
    evolve,
    evolve_both_ways,
    from_uint8,
    initialization_settings,
    initialize,
    is_selected,
    merge_with_points,
    missed_bound,
    to_uint8,
)
from ..ragged import ImageSource
from .config import TrainConfig
from .corpus import Corpus
from .evaluation import LogitFunction, probability_maps
from .learned_labels import learn_start
from .pack_cache import Progress
from .ranks import ALONE, Ranks
from .trusted import Trusted, calibrated_settings, draw_trusted

Start = Callable[[np.ndarray, np.ndarray], InitialLabels]


@dataclass
class LabelState:
    """Labels of the training and validation images, and which training images are in the pool.

    Attributes:
        store: the versioned file behind it.
        train, val: soft labels in [0, 1], float32, given on the training device.
        pool: bool [number of training images]; the others wait until they are mined.
        trusted: positions of the training images whose labels are their masks and stay so.
    """

    store: LabelStore
    train: SparseLabels
    val: SparseLabels
    pool: np.ndarray
    trusted: tuple[int, ...] = ()

    @property
    def pool_indices(self) -> list[int]:
        """The training images that are trained on."""
        return np.flatnonzero(self.pool).tolist()

    @property
    def evolving_indices(self) -> list[int]:
        """Those of them whose labels were made from points; they evolve, and their IoU is watched."""
        return [number for number in self.pool_indices if number not in self.trusted]


def start_labels(
    path: Path,
    corpus: Corpus,
    config: TrainConfig,
    device: torch.device,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> LabelState:
    """Make the first labels from points and write them as version 0.

    Every validation image gets a label; a training image whose points mostly fail waits (PAL's rule). If all
    would wait, all are let in: a run must start with something. With `trusted_masks`, the masks of that many
    training images are their labels and calibrate how the others start (`trusted.py`), or teach it
    (`learned_labels.py`).
    """
    trusted = draw_trusted(corpus, config)
    start, settings = _start(corpus.train, trusted, config, progress)
    train, pool = _first_labels(corpus.train, start, ranks)
    val, _ = _first_labels(corpus.val, start, ranks)
    if not any(pool[number] and len(points) for number, points in enumerate(corpus.train.points)):
        pool[:] = True
    for number, mask in trusted.items():
        train[number] = SparseLabel.of(mask)
        pool[number] = True
    ranks.on_first(
        LabelStore.create,
        path,
        names=(*corpus.train.names, *corpus.val.names),
        labels=[*train, *val],
        pool=_of_all(pool, corpus),
        settings={
            "label_init": config.label_init,
            "label_settings": settings,
            "trusted_masks": [corpus.train.names[number] for number in trusted],
            "lock": config.lock,
            "split_hash": corpus.split_hash,
        },
        note=f"initialised: {config.label_init}",
        overwrite=True,
    )
    return _current(LabelStore.open(path), corpus, device)


def _of_all(pool: np.ndarray, corpus: Corpus) -> np.ndarray:
    """The pool over all labels of the store: validation images have one, but nothing trains on them."""
    return np.concatenate([pool, np.zeros(len(corpus.val.names), np.bool_)])


def _first_labels(images: ImageSet, start: Start, ranks: Ranks) -> tuple[list[SparseLabel], np.ndarray]:
    """The first label of every image, and which of them enter the pool, bool [N]."""
    labels, enters = [], []
    with ranks.in_turns(range(len(images.points))) as own:
        for number in own:
            made = start(images.images.image(number).cpu().numpy(), images.points[number])
            labels.append(SparseLabel.of(made.mask))
            enters.append(made.enters_pool())
    return ranks.joined(labels), np.array(ranks.joined(enters), np.bool_)


def _start(
    train: ImageSet, trusted: Trusted, config: TrainConfig, progress: Progress | None
) -> tuple[Start, dict[str, Any]]:
    """How an image and its points become a label, and all settings of that, to be kept."""
    if config.label_init == "learned":
        learned = learn_start(train, trusted, config, progress)
        return learned.initialize, learned.describe()
    settings = calibrated_settings(train, trusted, config.label_init, _start_settings(config))
    complete = initialization_settings(config.label_init, settings)
    return partial(initialize, method=config.label_init, settings=complete), asdict(complete)


def _start_settings(config: TrainConfig) -> dict[str, float | bool] | None:
    """What the run sets of the initialisation; None leaves it its defaults."""
    settings: dict[str, float | bool] = {}
    # Where between background and peak a target ends is a convention of annotators, hence open to the user.
    if config.label_init in ("levels", "contrast") and config.contrast_fraction is not None:
        settings["fraction"] = config.contrast_fraction
    if config.label_init == "levels" and config.loss == "focal":
        settings["soft"] = False  # this loss takes only exact ones for targets
    return settings or None


def describe_trusted(state: LabelState, corpus: Corpus) -> str:
    """What masks were looked at, in a sentence for people; empty if none."""
    if not state.trusted:
        return ""
    names = ", ".join(corpus.train.names[number] for number in state.trusted)
    settings = state.store.settings.get("label_settings") or {}
    found = f"; boundary fraction {settings['fraction']:g} by calibration" if "fraction" in settings else ""
    if "fractions" in settings:
        found = f"; boundary fractions {', '.join(f'{one:.2f}' for one in settings['fractions'])} learned"
    return f"{len(state.trusted)} trusted masks train as they are{found}: {names}"


def resume_labels(
    path: Path, version: int, corpus: Corpus, device: torch.device, ranks: Ranks = ALONE
) -> LabelState:
    """Go back to the labels of `version`; later versions, which the resumed run has not reached, are dropped.

    Raises:
        LabelError: no such file or version; damaged; of other images.
    """
    with ranks.first_goes_first():
        store = LabelStore.open(
            path,
            names=(*corpus.train.names, *corpus.val.names),
            sizes=[size for split in (corpus.train, corpus.val) for size in split.images.sizes],
        )
        store.truncate(version)  # in the first process; the others find nothing to drop
    return _current(store, corpus, device)


def _current(store: LabelStore, corpus: Corpus, device: torch.device) -> LabelState:
    labels, count = store.sparse(), len(corpus.train.names)
    return LabelState(
        store=store,
        train=SparseLabels(labels[:count], device),
        val=SparseLabels(labels[count:], device),
        pool=store.pool()[:count],
        trusted=tuple(map(corpus.train.names.index, store.settings.get("trusted_masks", ()))),
    )


def update_labels(
    state: LabelState,
    corpus: Corpus,
    config: TrainConfig,
    epoch: int,
    predict: LogitFunction,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
    *,
    with_val: bool = True,
) -> dict[str, float]:
    """Evolve the labels of all images in use, then mine waiting ones; what changed, for the log.

    Validation labels stay as they are without `with_val`. Each process of a run takes its share of the
    images, and all of them end with all labels.

    Sources: LESPS (evolution), PAL (mining from the waiting images until `mine_until` of the epochs).
    """
    settings = EvolutionSettings(
        lock=config.lock, decay=config.label_decay, meet=config.label_meet, rise=config.label_rise
    )
    rule = evolve_both_ways if config.label_fall == "follow" else evolve
    changes: dict[str, SparseLabel] = {}
    val_numbers = list(range(len(corpus.val.names))) if with_val else []
    splits = (
        (corpus.train, state.train, state.evolving_indices, "evolving training labels"),
        (corpus.val, state.val, val_numbers, "evolving validation labels"),
    )
    for images, labels, numbers, title in splits:
        report = None if progress is None else _titled(progress, title)
        made: list[SparseLabel | None] = []
        with ranks.in_turns(numbers) as own:
            for number, probability in probability_maps(predict, images, report, only=own):
                before = labels.sparse(number).dense()
                after = rule(probability.cpu().numpy(), before, images.points[number], settings)
                if config.lock == "saturated":
                    # The lock is on what reads 255 in 8 bits, so labels are kept as those would keep them.
                    after = from_uint8(to_uint8(after)).astype(np.float32)
                made.append(None if np.array_equal(before, after) else SparseLabel.of(after))
        changes |= _set_labels(labels, images, numbers, ranks.joined(made))
    found = _mine(state, corpus, config, epoch, predict, progress, ranks)
    changes |= found
    pool = _of_all(state.pool, corpus)
    note = f"evolved, {len(found)} mined"
    ranks.on_first(state.store.commit, epoch=epoch, changes=changes, pool=pool, note=note)
    if not ranks.is_first:
        state.store = LabelStore.open(state.store.path)
    return {"labels_changed": float(len(changes)), "mined": float(len(found))}


def _set_labels(
    labels: SparseLabels, images: ImageSet, numbers: Sequence[int], found: Sequence[SparseLabel | None]
) -> dict[str, SparseLabel]:
    """Put new labels in their places; those that there are, by the names of their images."""
    changed = [(number, label) for number, label in zip(numbers, found, strict=True) if label is not None]
    for number, label in changed:
        labels.set_image(number, label)
    return {images.names[number]: label for number, label in changed}


def _mine(
    state: LabelState,
    corpus: Corpus,
    config: TrainConfig,
    epoch: int,
    predict: LogitFunction,
    progress: Progress | None,
    ranks: Ranks,
) -> dict[str, SparseLabel]:
    waiting = np.flatnonzero(~state.pool).tolist()
    if not waiting or epoch > config.mine_until * config.epochs:
        return {}
    rule = REFERENCE_MINING if config.mining == "reference" else MiningSettings()
    settings = replace(rule, stop=config.mine_until)
    bound = missed_bound(epoch, config.epochs, int(config.evolve_start * config.epochs), settings)
    report = None if progress is None else _titled(progress, "mining waiting images")
    made: list[SparseLabel | None] = []
    with ranks.in_turns(waiting) as own:
        for number, probability in probability_maps(predict, corpus.train, report, only=own):
            found = probability.cpu().numpy() > 0.5
            points = corpus.train.points[number]
            chosen = is_selected(points, found, missed_bound=bound, settings=settings)
            made.append(SparseLabel.of(merge_with_points(found, points)) if chosen else None)
    mined = ranks.joined(made)
    state.pool[waiting] = [label is not None for label in mined]
    return _set_labels(state.train, corpus.train, waiting, mined)


def _titled(progress: Progress, title: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(title, done, total)


def label_quality(
    labels: ImageSource, images: ImageSet, only: Sequence[int] | None = None, ranks: Ranks = ALONE
) -> float | None:
    """IoU of the labels (> 0.5) with the true masks, to watch; None where there are no masks."""
    if images.masks is None:
        return None
    numbers = range(len(images.names)) if only is None else only
    common = union = 0
    with ranks.in_turns(numbers) as own:
        for number in own:
            label = labels.image(number) > 0.5
            mask = images.masks.image(number) > 0
            common += int((label & mask).sum())
            union += int((label | mask).sum())
    common, union = ranks.sum(common, union)
    return common / union if union else None
