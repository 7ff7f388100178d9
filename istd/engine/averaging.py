"""The weights that are kept: as they are, or their exponential moving average over the steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class WeightAverage:
    """w̄ ← d·w̄ + (1 − d)·w after every step, statistics of batch normalisation included.

    Small batches of small targets make the weights of single steps noisy: a validation IoU can move by 0.1
    from one epoch to the next. The average is what evolves labels, is validated and is kept; training itself
    never sees it. As in common use the decay grows with the number n of steps, min(d, (1 + n)/(10 + n)), so
    that the average forgets where the weights started.

    Args:
        model: what is trained, on its device.
        decay: d, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        def average(old: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
            if not old.is_floating_point():
                return new
            n = float(count)
            return torch.lerp(old, new, 1.0 - min(decay, (1.0 + n) / (10.0 + n)))

        self._live = model
        self._averaged = AveragedModel(model, avg_fn=average, use_buffers=True)

    @property
    def model(self) -> nn.Module:
        """The network with the averaged weights, of the trained one's class."""
        module = self._averaged.module
        assert isinstance(module, nn.Module)
        return module

    def update(self) -> None:
        """Take the trained network's weights into the average, after a step."""
        self._averaged.update_parameters(self._live)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights and the number of steps."""
        return dict(self._averaged.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go back to a state that `state_dict` gave."""
        self._averaged.load_state_dict(state)
