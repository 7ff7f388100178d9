"""What depends on where a run stands: learning rates, and when labels evolve."""

from __future__ import annotations

import math

from .config import TrainConfig


def learning_rate(config: TrainConfig, epoch: float) -> float:
    """The learning rate at a (fractional) epoch."""
    match config.lr_schedule:
        case "constant":
            return config.lr
        case "step":
            passed = sum(epoch >= milestone * config.epochs for milestone in config.lr_milestones)
            return config.lr * config.lr_factor**passed
        case _:
            return 0.5 * config.lr * (1.0 + math.cos(math.pi * epoch / config.epochs))


def may_evolve(config: TrainConfig, loss: float) -> bool:
    """Whether an epoch of this mean loss lets labels evolve from the next one on (LESPS)."""
    return config.evolve_loss == 0 or loss < config.evolve_loss


def evolves(config: TrainConfig, epoch: int, since: int) -> bool:
    """Whether labels evolve before this epoch.

    Args:
        config: says from which part of the run on, and how often.
        epoch: from 0.
        since: the first epoch that `may_evolve` allowed; −1 if there was none yet. With a bound on the loss
            labels evolve at once when it is met; without one they wait for the interval, as in PAL.
    """
    if since < 0 or epoch <= config.evolve_start * config.epochs:
        return False
    return epoch % config.evolve_interval == 0 or (config.evolve_loss > 0 and epoch == since)
