"""What the losses get to see, in streams that can be had again: images, frozen features, labels, clusters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._transfer import to_device
from ..data import AugmentSettings, Batch, CropLoader, ImageSet
from ..ragged import ImageSource
from .config import TrainConfig
from .ranks import ALONE, Ranks
from .runtime import weight_dtype

Features: TypeAlias = Callable[[Batch], Tensor | None]
"""The frozen model's hidden maps of a batch of crops, float [B, K, d, h', w'], or None without one."""


class TrainBatch(NamedTuple):
    """One batch, ready for the losses.

    Attributes:
        image: [B, 1, h, w] in [0, 1], in the precision of the weights; the networks normalise it themselves.
        maps: the frozen model's hidden maps, float [B, K, d, h', w'], or None without one.
        label: float32 [B, 1, h, w] in [0, 1].
        cluster: int64 [B].
    """

    image: Tensor
    maps: Tensor | None
    label: Tensor
    cluster: Tensor


@dataclass(frozen=True)
class Stream:
    """Batch after batch of one split.

    Attributes:
        loader: cuts the crops.
        clusters: int64 [number of images], the cluster of each image of the split.
        features: the frozen maps of the crops, computed (or looked up) once a batch.
        dtype: of the images.
    """

    loader: CropLoader
    clusters: Tensor
    features: Features
    dtype: torch.dtype = torch.float32

    def batch(self, step: int) -> TrainBatch:
        """Batch number `step`, counted on over the loader's epochs, however long those are; its own part."""
        crops = self.loader.batch(*divmod(step, self.loader.steps_per_epoch))
        cluster = self.clusters[to_device(crops.index, self.clusters.device)]
        return TrainBatch(crops.image.to(self.dtype), self.features(crops), crops.label, cluster)


def open_stream(
    name: str,
    config: TrainConfig,
    images: ImageSet,
    labels: ImageSource,
    pool: list[int] | None,
    clusters: Tensor,
    features: Features,
    align: int = 1,
    distractors: Sequence[npt.NDArray[np.int64]] | None = None,
    ranks: Ranks = ALONE,
) -> Stream:
    """The stream `name` of a split, as `config` wants its crops; `pool` restricts it to some images.

    Raises:
        ConfigError: the batch cannot be shared equally between the processes.
    """
    warp = AugmentSettings() if config.augment_warp else AugmentSettings(degrees=0.0, shift=0.0, scale=0.0)
    loader = CropLoader(
        images,
        labels,
        indices=pool,
        crop=config.crop,
        batch_size=config.batch_size,
        seed=config.seed,
        stream=name,
        augment=warp if config.augment else False,
        target_fraction=config.target_fraction,
        distractors=distractors,
        distractor_fraction=config.distractor_fraction,
        align=align,
        part=ranks.part_of(config.batch_size),
    )
    return Stream(loader, clusters, features, weight_dtype(config.precision))
