"""The images of a run: packed once, held in memory or in the packed file, split, and described."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..clusters import Clusters, describe, fit_clusters
from ..data import Dataset, DataWarning, ImageSet, Resplit, distractors_of, load_names
from ..errors import ConfigError, DataError
from ..labels._standing_out import standing_out
from .config import TrainConfig
from .pack_cache import Progress, packed
from .presets import METHOD_PRESETS
from .ranks import ALONE, Ranks
from .seeding import derive_seed

_STANDS_OUT = 3.0  # deviations; see `standing_out`
_LOOKED_AT = 200  # images, about


@dataclass
class Corpus:
    """What a run trains and selects on. The test split is only named here, not loaded.

    Attributes:
        dataset: where images come from, in the splits that the run uses.
        train, val: the two splits, in memory where they fit.
        split_hash: of the names that are trained on, selected on and tested on; see `Dataset.split_hash`.
        mean, std: of the training images, in [0, 1].
    """

    dataset: Dataset
    train: ImageSet
    val: ImageSet
    split_hash: str
    mean: float
    std: float


def load_corpus(
    config: TrainConfig, device: torch.device, progress: Progress | None = None, ranks: Ranks = ALONE
) -> Corpus:
    """Open, pack and load the data of `config`; each process of a run holds all of it.

    A dataset without a `val` split gives up a part of its training images; see `hold_out`.

    Raises:
        DataError: the data cannot be used, or holds too few training images.
    """
    with ranks.first_goes_first():
        dataset = hold_out(packed(config.data, progress), config.val_fraction, config.val_seed)
    if not dataset.splits["train"]:
        held_out = len(dataset.splits["val"])
        raise DataError(
            "there are no training images",
            where=config.data,
            found=f"{held_out} images, all held out for validation" if held_out else None,
            expected="a train split, and less than all of it held out",
        )
    train = load_names(dataset, dataset.splits["train"], device, memory_gb=config.memory_gb)
    val = load_names(dataset, dataset.splits["val"], device, memory_gb=memory_left(config, train))
    if not any(len(points) for points in train.points):
        raise DataError(
            "no training image has a point",
            where=config.data,
            found=f"{len(train.names)} images without targets",
            expected="one point per target, at least one in the training split",
            fix="check the masks or the point file of the training split",
        )
    return Corpus(dataset, train, val, dataset.split_hash(), *measure(train))


def memory_left(config: TrainConfig, *held: ImageSet) -> float | None:
    """GiB that more pixels may take in the memory that holds `held`; None if `config` does not say."""
    if config.memory_gb is None:
        return None
    return max(0.0, config.memory_gb - sum(images.nbytes for images in held) / 2**30)


def check_supervision(config: TrainConfig, corpus: Corpus, supervision: str) -> None:
    """Raise `ConfigError` where a method learns from "masks" and the data has none.

    Where it learns from "points", and most of them are not on bright spots, a `DataWarning` says so.
    """
    if supervision == "masks" and corpus.train.masks is None:
        others = [name for name, one in METHOD_PRESETS.items() if one.supervision == "points"]
        raise ConfigError(
            "full supervision needs masks",
            found=f"training images without masks in {config.data}",
            fix=f"use a method that trains from points: --method {' | '.join(others)}",
        )
    if supervision == "points":
        _warn_of_dim_points(corpus.train)


def _warn_of_dim_points(images: ImageSet) -> None:
    """Labels grow from bright spots: around other points they are nonsense, and nothing else would tell."""
    marked = [number for number, points in enumerate(images.points) if len(points)]
    chosen = marked[:: max(1, len(marked) // _LOOKED_AT)]
    found = [standing_out(images.images.image(one).cpu().numpy(), images.points[one]) for one in chosen]
    dim = np.concatenate(found) < _STANDS_OUT
    if dim.mean() > 0.5:
        warnings.warn(
            f"{int(dim.sum())} of {len(dim)} points that were looked at are not brighter than what is around "
            "them, and labels only grow from bright spots: see whether x and y were exchanged, whether the "
            "points are of other images or of another size, or hot is black in these images",
            DataWarning,
            stacklevel=3,
        )


def hold_out(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """The dataset with a validation split: its own, or a part of its training images, at least one.

    Nothing is ever selected on the test split. Which images are held out does not follow the seed of the run,
    so that runs over several seeds train and choose on the same ones.
    """
    names = dataset.splits["train"]
    if dataset.splits["val"] or not names:
        return dataset
    order = np.random.default_rng(derive_seed(seed, "val")).permutation(len(names))
    held_out = {names[position] for position in order[: max(1, round(fraction * len(names)))]}
    train = [name for name in names if name not in held_out]
    val = [name for name in names if name in held_out]
    return Resplit(dataset, {**dataset.splits, "train": train, "val": val})


def as_in_run(dataset: Dataset, header: Mapping[str, Any]) -> Dataset:
    """The dataset in the splits of the run behind a weight file, where it is what the run was trained on.

    Of other data nothing was held out: it keeps its own splits.

    Args:
        dataset: the images.
        header: of the detector (`Detector.header`); its values are not trusted.
    """
    fraction, seed = (header["config"].get(name) for name in ("val_fraction", "val_seed"))
    if not isinstance(fraction, int | float) or not isinstance(seed, int) or not 0 <= fraction <= 1:
        return dataset
    used = hold_out(dataset, fraction, seed)
    return used if used.split_hash() == header.get("split_hash") else dataset


def measure(images: ImageSet) -> tuple[float, float]:
    """Mean of the per-image means, and of the per-image deviations, of images in [0, 1].

    By sums of whole numbers, which are the same in any order: neither threads nor devices change a bit, so a
    run goes on where there are others.
    """
    means, deviations = [], []
    for number in range(len(images.names)):
        pixels = images.images.image(number).long()
        count, total, squares = pixels.numel(), int(pixels.sum()), int(pixels.square().sum())
        means.append(total / (255 * count))
        deviations.append(math.sqrt(count * squares - total**2) / (255 * count))
    return float(np.mean(means)), max(float(np.mean(deviations)), 1e-3)


def cluster_images(
    images: ImageSet,
    count: int | None,
    seed: int,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> Clusters:
    """Describe and cluster training images; nothing of other splits is looked at."""
    rows = np.stack(_describe(images, progress, ranks))
    return ranks.from_first(
        lambda: fit_clusters(rows, num_clusters=count, seed=derive_seed(seed, "clusters") % 2**31)
    )


def assign_clusters(
    found: Clusters, images: ImageSet, progress: Progress | None = None, ranks: Ranks = ALONE
) -> np.ndarray:
    """The nearest cluster of images that the clusters were not fitted on, int64 [N]."""
    return found.predict(np.stack(_describe(images, progress, ranks)))


def assign_all(
    config: TrainConfig,
    corpus: Corpus,
    device: torch.device,
    wanted: bool,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> tuple[dict[str, Tensor], int]:
    """The cluster of every image of a run, int64 by split, and how many clusters there are.

    Validation images need one only in the compatibility mode, which weighs the outer loss too; without
    `wanted` all images are of one.
    """
    splits = {"train": corpus.train, "val": corpus.val}
    clusters = {
        name: torch.zeros(len(split), dtype=torch.int64, device=device) for name, split in splits.items()
    }
    if not wanted:
        return clusters, 1
    found = cluster_images(corpus.train, config.clusters, config.seed, progress, ranks)
    clusters["train"] = torch.as_tensor(found.assignment, device=device)
    if config.hypergradient == "reference":
        clusters["val"] = torch.as_tensor(assign_clusters(found, corpus.val, progress, ranks), device=device)
    return clusters, found.num_clusters


def distractors(
    config: TrainConfig, corpus: Corpus, progress: Progress | None = None, ranks: Ranks = ALONE
) -> dict[str, tuple[np.ndarray, ...] | None]:
    """Places in the images of each split that could be taken for a target; None where none are wanted."""
    found: dict[str, tuple[np.ndarray, ...] | None] = {"train": None, "val": None}
    if config.distractor_fraction > 0:
        for name, split in (("train", corpus.train), ("val", corpus.val)):
            with ranks.in_turns(range(len(split))) as own:
                spots = distractors_of(split, progress=progress, only=own)
            found[name] = tuple(ranks.joined(spots))
    return found


def _describe(images: ImageSet, progress: Progress | None, ranks: Ranks) -> list[np.ndarray]:
    rows = []
    with ranks.in_turns(range(len(images.names))) as own:
        for done, number in enumerate(own, 1):
            rows.append(_describe_one(images, number))
            if progress is not None:
                progress("describing images", done, len(own))
    return ranks.joined(rows)


def _describe_one(images: ImageSet, number: int) -> np.ndarray:
    try:
        return describe(images.images.image(number).cpu().numpy())
    except DataError as error:
        raise DataError(
            error.problem,
            where=images.names[number],
            found=error.found,
            expected=error.expected,
            fix="take the image out of the split, or use a method without clusters (--method pal or lesps)",
        ) from error
