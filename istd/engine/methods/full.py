"""Full supervision: the plain backbone on the true masks, the upper bound to compare with."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from ...losses import task_loss
from ..batches import TrainBatch
from .base import PlainMethod


class Full(PlainMethod):
    """Trains on `batch.label`, which the loop fills from the masks."""

    supervision: ClassVar[Literal["masks", "points"]] = "masks"

    def loss(self, batch: TrainBatch) -> Tensor:
        """Mean task loss of the batch."""
        return task_loss(self.model(batch.image), batch.label, kind=self.config.loss_name).mean()
