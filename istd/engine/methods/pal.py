"""PAL: progressive active learning (Yu et al. 2024): the detector grows the labels it trains on."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from ...losses import task_loss
from ..batches import TrainBatch
from .base import PlainMethod


class Pal(PlainMethod):
    """The plain backbone on evolving labels.

    The phases are the loop's: training on the first labels until `evolve_start`, then evolution and mining
    until `mine_until`, then evolution alone.
    """

    supervision: ClassVar[Literal["masks", "points"]] = "points"

    def loss(self, batch: TrainBatch) -> Tensor:
        """Mean task loss of the batch; by default PAL's, BCE on the hardest half of the pixels."""
        return task_loss(self.model(batch.image), batch.label, kind=self.config.loss_name).mean()
