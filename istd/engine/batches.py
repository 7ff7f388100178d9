"""What the losses get to see: normalised images, frozen features, labels and clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ..data import Batch
from ..models import FrozenVFM


class TrainBatch(NamedTuple):
    """One batch, ready for the losses.

    Attributes:
        image: float [B, C, h, w], normalised with the training images' mean and deviation.
        maps: the frozen model's hidden maps, float [B, K, d, h', w'], or None without one.
        label: float [B, 1, h, w] in [0, 1].
        cluster: int64 [B].
    """

    image: Tensor
    maps: Tensor | None
    label: Tensor
    cluster: Tensor


@dataclass(frozen=True)
class Normalization:
    """Standardisation of images by the mean and deviation of the training set.

    Attributes:
        mean: mean of the per-image means, of images in [0, 1].
        std: mean of the per-image deviations, likewise.
        channels: the backbone's input channels; the gray image is repeated.
    """

    mean: float
    std: float
    channels: int = 3

    def __call__(self, image: Tensor) -> Tensor:
        """Normalise float [B, 1, h, w] in [0, 1] to [B, channels, h, w]."""
        return ((image - self.mean) / self.std).expand(-1, self.channels, -1, -1)


def prepare(
    batch: Batch, clusters: Tensor, normalization: Normalization, vfm: FrozenVFM | None
) -> TrainBatch:
    """Turn a batch of crops into what the losses take; the frozen features are computed here, once."""
    return TrainBatch(
        image=normalization(batch.image).contiguous(),
        maps=None if vfm is None else vfm(batch.image),
        label=batch.label,
        cluster=clusters[batch.index],
    )
