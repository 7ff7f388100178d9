"""Where the hidden maps of crops come from: the frozen model itself, or its cached maps of whole images."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from .._transfer import to_device
from ..data import Batch
from ..errors import ConfigError
from ..models import CacheReport, FrozenVFM, VFMCache
from ..ragged import ImageSource, LazySequence
from .batches import Features
from .config import TrainConfig
from .corpus import Corpus
from .pack_cache import Progress, cache_dir
from .ranks import ALONE, Ranks
from .runtime import autocast, weight_dtype


@dataclass(frozen=True)
class FeatureSource:
    """The features of each split, and what they ask of the crops.

    Attributes:
        train, val: features of a batch of crops of that split.
        align: the crops' first row and column are multiples of this.
        report: what the cache holds; None without one.
    """

    train: Features
    val: Features
    align: int = 1
    report: CacheReport | None = None


def open_features(
    config: TrainConfig,
    vfm: FrozenVFM | None,
    corpus: Corpus,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> FeatureSource:
    """As `config.vfm_cache` says: run the model on the crops, or cut from maps of whole images.

    Raises:
        ConfigError: crops that the cache cannot cut; ModelError, WriteError: the cache cannot be filled.
    """
    if vfm is None or config.vfm_cache == "off":
        live = live_features(vfm, config.precision)
        return FeatureSource(live, live)
    patch = vfm.patch_size[0]
    if vfm.patch_size != (patch, patch) or config.crop % patch:
        raise ConfigError(
            "cached hidden maps need crops of whole patches",
            found=f"--crop {config.crop} with patches of {vfm.patch_size[0]}×{vfm.patch_size[1]} pixels",
            expected=f"a multiple of {patch}",
            fix=f"--crop {max(1, round(config.crop / patch)) * patch}, or --set vfm_cache=off",
        )
    limit = int(config.vfm_cache_gb * 2**30)
    cache = VFMCache(cache_dir() / "vfm", vfm, limit, least=(config.crop, config.crop))
    splits = [corpus.train.images, corpus.val.images]
    places = [(images, number) for images in splits for number in range(len(images))]

    def pixels(chosen: Sequence[tuple[ImageSource, int]]) -> LazySequence[Tensor]:
        return LazySequence(lambda i: chosen[i][0].image(chosen[i][1]), len(chosen))

    every = pixels(places)
    titled = None if progress is None else lambda done, total: progress("hidden maps", done, total)
    if ranks.size > 1 and ranks.from_first(lambda: cache.has_room(every)):
        with ranks.in_turns(places) as own:
            cache.fill(pixels(own), titled)
    with ranks.first_goes_first():  # the others find what it has stored
        report = cache.fill(every, titled)
    train, val = (CachedFeatures(cache, images, config.crop) for images in splits)
    return FeatureSource(train, val, patch, report)


def live_features(vfm: FrozenVFM | None, precision: str = "float32") -> Features:
    """The frozen model run on the crops themselves, as they are after augmentation."""
    model, dtype = vfm, weight_dtype(precision)
    if vfm is not None and precision != "float32":
        model = copy.deepcopy(vfm).to(dtype) if precision == "float64" else converted(vfm, torch.bfloat16)

    def features(batch: Batch) -> Tensor | None:
        if model is None:
            return None
        with autocast(precision, batch.image.device):
            return model(batch.image.to(dtype))

    return features


def converted(vfm: FrozenVFM, dtype: torch.dtype) -> FrozenVFM:
    """A copy for autocast in `dtype`: the same maps, bit for bit.

    Autocast converts weights that have no gradient anew in every call; here those of products and
    convolutions are converted once.
    """
    fast = copy.deepcopy(vfm)
    for module in fast.model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(dtype)
    return fast


class CachedFeatures:
    """Hidden maps of crops, cut out of those of their whole images.

    An approximation of running the model on the crop: its tokens have seen the whole image, not the crop
    alone, and not what augmentation did to it. They are not flipped or turned with the crop; SCAM's pooling
    does not ask where a token is.

    Args:
        cache: filled with these images.
        images: uint8, the images of the split.
        crop: side of the crops in pixels, whole patches; so are their first rows and columns.
    """

    def __init__(self, cache: VFMCache, images: ImageSource, crop: int) -> None:
        self._cache = cache
        self._images = images
        self._paths: list[Path] = [cache.path(images.image(number)) for number in range(len(images))]
        self._patch = cache.vfm.patch_size[0]
        self._side = crop // self._patch

    def __call__(self, batch: Batch) -> Tensor:
        """float16 [B, K, d, side, side] on the batch's device."""
        places = zip(batch.index.tolist(), batch.top.tolist(), batch.left.tolist(), strict=True)
        maps = [
            self._cache.window(
                partial(self._images.image, number),
                self._paths[number],
                top // self._patch,
                left // self._patch,
                self._side,
                self._side,
            )
            for number, top, left in places
        ]
        return to_device(torch.stack(maps), batch.image.device)
