"""The images of a run: packed once, held in memory, split, and described."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..clusters import Clusters, describe, fit_clusters
from ..data import (
    PACKED_VERSION,
    Dataset,
    DataWarning,
    ImageSet,
    PackedDataset,
    load_names,
    open_dataset,
    pack,
)
from ..errors import DataError, WriteError
from .config import TrainConfig
from .seeding import derive_seed

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much is done, how much there is)."""


@dataclass
class Corpus:
    """What a run trains and selects on. The test split is only named here, not loaded.

    Attributes:
        dataset: where images come from.
        train, val: the two splits in memory.
        split_hash: of the names that are trained on, selected on and tested on; identifies the split.
        mean, std: of the training images, in [0, 1].
    """

    dataset: Dataset
    train: ImageSet
    val: ImageSet
    split_hash: str
    mean: float
    std: float


def load_corpus(config: TrainConfig, device: torch.device, progress: Progress | None = None) -> Corpus:
    """Open, pack and load the data of `config`.

    A dataset without a `val` split gives up `config.val_fraction` of its training images, chosen by the
    seed, so that nothing is ever selected on the test split.

    Raises:
        DataError: the data cannot be used, or holds too few training images.
    """
    dataset = packed(config.data, progress)
    train_names = list(dataset.splits.get("train", ()))
    val_names = list(dataset.splits.get("val", ()))
    if not val_names:
        order = np.random.default_rng(derive_seed(config.seed, "val")).permutation(len(train_names))
        count = max(1, round(config.val_fraction * len(train_names)))
        held_out = {train_names[position] for position in order[:count]}
        val_names = [name for name in train_names if name in held_out]
        train_names = [name for name in train_names if name not in held_out]
    if not train_names:
        raise DataError(
            "there are no training images",
            where=config.data,
            found=f"{len(val_names)} images, all held out for validation" if val_names else None,
            expected="a train split, and less than all of it held out",
        )
    train = load_names(dataset, train_names, device)
    val = load_names(dataset, val_names, device)
    if not any(len(points) for points in train.points):
        raise DataError(
            "no training image has a point",
            where=config.data,
            found=f"{len(train.names)} images without targets",
            expected="one point per target, at least one in the training split",
            fix="check the masks or the point file of the training split",
        )
    return Corpus(dataset, train, val, _split_hash(dataset, train, val), *measure(train))


def _split_hash(dataset: Dataset, train: ImageSet, val: ImageSet) -> str:
    """As `Dataset.split_hash`, of the splits as they are used: the same where `val` was not carved out."""
    if train.names == dataset.splits["train"] and val.names == dataset.splits["val"]:
        return dataset.split_hash()
    used = "\n".join(("train", *train.names, "val", *val.names, "test", *dataset.splits["test"]))
    return hashlib.sha256(used.encode()).hexdigest()


def measure(images: ImageSet) -> tuple[float, float]:
    """Mean of the per-image means, and of the per-image deviations, of images in [0, 1]."""
    means, deviations = [], []
    for number in range(len(images.names)):
        pixels = images.images.image(number).double() / 255.0
        means.append(float(pixels.mean()))
        deviations.append(float(pixels.std(unbiased=False)))
    return float(np.mean(means)), max(float(np.mean(deviations)), 1e-3)


def cluster_images(
    images: ImageSet, count: int | None, seed: int, progress: Progress | None = None
) -> Clusters:
    """Describe and cluster training images; nothing of other splits is looked at."""
    rows = np.stack(_describe(images, progress))
    return fit_clusters(rows, num_clusters=count, seed=derive_seed(seed, "clusters") % 2**31)


def assign_clusters(found: Clusters, images: ImageSet, progress: Progress | None = None) -> np.ndarray:
    """The nearest cluster of images that the clusters were not fitted on, int64 [N]."""
    return found.predict(np.stack(_describe(images, progress)))


def _describe(images: ImageSet, progress: Progress | None) -> list[np.ndarray]:
    rows = []
    for number in range(len(images.names)):
        rows.append(describe(images.images.image(number).cpu().numpy()))
        if progress is not None:
            progress("describing images", number + 1, len(images.names))
    return rows


def packed(path: str | Path, progress: Progress | None = None) -> Dataset:
    """The dataset at `path` in packed form: a packed file as it is, a folder packed once into the cache.

    The cache lies in `$ISTD_CACHE`, else in `$XDG_CACHE_HOME/istd`, else in `~/.cache/istd`. A folder whose
    splits, points or files have changed gets a new file; a damaged file is made again.
    """
    dataset = open_dataset(path)
    key = None if isinstance(dataset, PackedDataset) else dataset.content_key()
    if key is None:
        return dataset
    target = cache_dir() / f"{dataset.root.resolve().name}-{key[:16]}-{PACKED_VERSION}.h5"
    if target.exists():
        try:
            return PackedDataset(target)
        except DataError:
            target.unlink()
    report = None if progress is None else lambda done, total: progress("packing images", done, total)
    try:
        with warnings.catch_warnings():
            # What had to be mended is said when the packed image is read, not twice.
            warnings.simplefilter("ignore", DataWarning)
            return pack(dataset, target, progress=report)
    except WriteError as error:
        raise WriteError(
            "the packed images cannot be kept",
            where=target,
            found=error.found,
            fix="set ISTD_CACHE to a folder that can be written",
        ) from error


def cache_dir() -> Path:
    """Where packed datasets are kept between runs."""
    if "ISTD_CACHE" in os.environ:
        return Path(os.environ["ISTD_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "istd"
