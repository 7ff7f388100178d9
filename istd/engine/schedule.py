"""Learning rates over a run."""

from __future__ import annotations

import math

from .config import TrainConfig


def learning_rate(config: TrainConfig, epoch: float) -> float:
    """The learning rate at a (fractional) epoch."""
    if config.lr_schedule == "constant":
        return config.lr
    return 0.5 * config.lr * (1.0 + math.cos(math.pi * epoch / config.epochs))
