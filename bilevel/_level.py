"""One level of the problem as the solver drives it: batches, clipping, optimiser, scheduler."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ._autograd import Autocast
from ._live import TorchOptimizer, live_optimizer
from ._nested import split, to_device
from ._numbers import check_numbers
from ._schedule import Schedule
from ._types import MaybeTensors
from .batches import Batches, as_batches
from .clipping import Clip, ClippedRule
from .errors import OptionError
from .optim import UpdateRule

_SOURCE = {"inner": "train", "outer": "val"}


class Level:
    """What happens between a gradient of one level and its parameters, and before its loss sees a batch."""

    def __init__(
        self,
        name: str,
        optimizer: object,
        parameters: Mapping[str, Tensor],
        *,
        clip: Clip | None,
        scheduler: Any,
        micro_batch: int | None,
        device: torch.device | None,
    ) -> None:
        if clip is not None and not isinstance(clip, Clip):
            raise OptionError(
                "not a way to clip",
                where=f"{name}_clip",
                found=repr(clip),
                expected="such as ClipNorm(1.0) or ClipValue(0.5)",
            )
        if micro_batch is not None:
            check_numbers("Solver", whole={f"{name}_micro_batch": micro_batch})
        self.name = name
        self.live = live_optimizer(optimizer, parameters, name)
        self.clip = clip
        self.schedule = None if scheduler is None else Schedule(scheduler, optimizer, name)
        self._held: list[float] | None = None
        self._micro_batch = micro_batch
        self._device = device

    def batches(self, value: Any) -> Batches:
        """What the user passed, on the device and cut into micro-batches."""
        where = _SOURCE[self.name]
        batches = as_batches(value, where)
        if self._device is not None:
            batches = batches.map(partial(to_device, device=self._device))
        if self._micro_batch is not None:
            size = self._micro_batch
            batches = batches.map(lambda batch: split(batch, size, where))
        return batches

    def apply(
        self, parameters: Sequence[Tensor], grads: MaybeTensors, outer: Mapping[str, Tensor], loss: float
    ) -> None:
        """Clip and step the optimiser, outside of the caller's autocast; step the scheduler."""
        with Autocast.capture(parameters[0].device.type).backward():
            if self.clip is not None:
                with torch.no_grad():
                    grads = self.clip(grads)
            self.live.apply(parameters, grads, outer)
        if self._held is not None:
            self._held.append(loss)
        elif self.schedule is not None:
            self.schedule.step(loss)

    @property
    def needs_loss(self) -> bool:
        """Whether the scheduler looks at the loss given to `apply`."""
        return self.schedule is not None and self.schedule.needs_loss

    @contextlib.contextmanager
    def schedule_held(self) -> Iterator[None]:
        """Within, the learning rate stays as it is; the scheduler takes its steps when the block ends."""
        held: list[float] = []
        self._held = held
        try:
            yield
        finally:
            self._held = None
            if self.schedule is not None:
                for loss in held:
                    self.schedule.step(loss)

    def rule(self, parameters: Mapping[str, Tensor]) -> UpdateRule:
        """The live step as a pure function; the learning rate is the present one throughout an unroll."""
        rule = self.live.rule(parameters)
        return rule if self.clip is None else ClippedRule(rule, self.clip)

    def learning_rate(self) -> dict[str, float]:
        """That of the first parameter group under `inner/lr` or `outer/lr`; nothing for update rules."""
        if not isinstance(self.live, TorchOptimizer):
            return {}
        return {f"{self.name}/lr": float(self.live.optimizer.param_groups[0]["lr"])}

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state and, if there is one, the scheduler's, under the level's name."""
        state = {f"{self.name}_optimizer": self.live.state_dict()}
        if self.schedule is not None:
            state[f"{self.name}_scheduler"] = self.schedule.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        if self.schedule is not None:
            self.schedule.load_state_dict(state[f"{self.name}_scheduler"])
        self.live.load_state_dict(state[f"{self.name}_optimizer"])
