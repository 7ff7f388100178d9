"""A torch learning-rate scheduler as part of the solver."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ._plain import plain
from .errors import OptionError
from .optim import LearnedSettings


class Schedule:
    """Steps a scheduler after each update of its optimiser, and keeps its state as plain data.

    Raises:
        OptionError: it is no scheduler, or one of another optimiser, or the learning rate is learned.
    """

    def __init__(self, scheduler: LRScheduler, optimizer: object, level: str) -> None:
        where = f"{level}_scheduler"
        if not isinstance(scheduler, LRScheduler):
            raise OptionError(
                "not a learning-rate scheduler",
                where=where,
                found=type(scheduler).__name__,
                expected="an instance of a class of torch.optim.lr_scheduler",
            )
        if isinstance(optimizer, LearnedSettings):
            if "lr" in optimizer.names:
                raise OptionError(
                    "the learning rate is both learned and scheduled", where=where, fix="choose one of them"
                )
            optimizer = optimizer.optimizer
        if getattr(scheduler, "optimizer", None) is not optimizer:
            raise OptionError(
                "the scheduler belongs to another optimiser",
                where=where,
                found=type(getattr(scheduler, "optimizer", None)).__name__,
                expected=f"the one passed as {level}_optimizer",
            )
        self.scheduler = scheduler

    @property
    def needs_loss(self) -> bool:
        """Whether it watches the loss."""
        return isinstance(self.scheduler, ReduceLROnPlateau)

    def step(self, loss: float) -> None:
        """After an update; `loss` is what ReduceLROnPlateau watches."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(loss)
        else:
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's state as plain data."""
        state: dict[str, Any] = plain(_finite(self.scheduler.state_dict()))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.scheduler.load_state_dict(_like(state, self.scheduler.state_dict()))


def _finite(value: Any) -> Any:
    """Infinities, which JSON does not know, as tensors."""
    if isinstance(value, float) and not math.isfinite(value):
        return torch.tensor(value, dtype=torch.float64)
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value


def _like(saved: Any, live: Any) -> Any:
    """Saved plain data with the key types, tuples and infinities that the live state has."""
    if isinstance(live, Counter):
        return Counter({key: saved[str(key)] for key in live})
    if isinstance(live, Mapping):
        return {key: _like(saved[str(key)], one) for key, one in live.items()}
    if isinstance(live, (list, tuple)) and len(live) == len(saved):
        return type(live)(_like(one, other) for one, other in zip(saved, live, strict=True))
    if isinstance(saved, Tensor) and not isinstance(live, Tensor):
        return saved.item()
    return saved
