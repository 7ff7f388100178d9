"""The losses of training steps, left on the device until somebody looks: looking waits for the device."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from ..errors import ConfigError
from .position import Position

_EVERY = 0.5
"""Seconds between two looks for the sake of the progress bar."""


class StepLosses:
    """Collects the losses of an epoch's steps and writes them to `position.losses` when they are read.

    `read` must be called before anything that training has made is kept: it finds steps that went wrong.

    Args:
        position: of the run; its `losses` are those of the epoch's steps that were read.
    """

    def __init__(self, position: Position) -> None:
        self._position = position
        self._unread: list[Tensor] = []
        self._read_at = -math.inf

    def add(self, loss: Tensor) -> None:
        """The loss of the next step, a scalar on any device."""
        self._unread.append(loss)

    def latest(self) -> float:
        """The last loss, or one of less than a second ago; raises as `read` does."""
        if time.monotonic() - self._read_at > _EVERY or not self._position.losses:
            self.read()
        return self._position.losses[-1]

    def read(self) -> None:
        """Take all losses to the host.

        Raises:
            ConfigError: one is not finite; names the step.
        """
        if not self._unread:
            return
        values = torch.stack(self._unread).tolist()
        self._unread.clear()
        self._read_at = time.monotonic()
        for value in values:
            if not math.isfinite(value):
                raise ConfigError(
                    "training diverged: the loss is not finite",
                    found=f"{value} at epoch {self._position.epoch + 1}, "
                    f"step {len(self._position.losses) + 1}",
                    fix="train into another --out with a lower --set lr; --resume would come here again",
                )
            self._position.losses.append(value)
