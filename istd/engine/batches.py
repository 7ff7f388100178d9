"""What the losses get to see: images, frozen features, labels and clusters."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..data import Batch
from ..models import FrozenVFM


class TrainBatch(NamedTuple):
    """One batch, ready for the losses.

    Attributes:
        image: float32 [B, 1, h, w] in [0, 1]; the networks normalise it themselves.
        maps: the frozen model's hidden maps, float [B, K, d, h', w'], or None without one.
        label: float32 [B, 1, h, w] in [0, 1].
        cluster: int64 [B].
    """

    image: Tensor
    maps: Tensor | None
    label: Tensor
    cluster: Tensor


def prepare(batch: Batch, clusters: Tensor, vfm: FrozenVFM | None) -> TrainBatch:
    """Turn a batch of crops into what the losses take; the frozen features are computed here, once."""
    return TrainBatch(
        image=batch.image,
        maps=None if vfm is None else vfm(batch.image),
        label=batch.label,
        cluster=clusters[batch.index],
    )
