"""The weights that are kept: as they are, or their exponential moving average over the steps."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """w̄ ← d·w̄ + (1 − d)·w after every step, statistics of batch normalisation included.

    Small batches of small targets make the weights of single steps noisy: a validation IoU can move by 0.1
    from one epoch to the next. The average is what evolves labels, is validated and is kept; training itself
    never sees it. As in common use the decay grows with the number n of steps, min(d, (1 + n)/(10 + n)), so
    that the average forgets where the weights started.

    torch's `AveragedModel` counts steps in a tensor and asks it for the decay: on a GPU each step would wait.
    Here n is a number of the host, and all weights move in a few kernels.

    Args:
        model: what is trained, on its device.
        decay: d, in (0, 1).

    Attributes:
        model: the network with the averaged weights, of the trained one's class.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model)
        self._live = model
        self._decay = decay
        self._count = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the trained network's weights into the average, after a step."""
        n = self._count
        move = get_ema_multi_avg_fn(min(self._decay, (1.0 + n) / (10.0 + n)))
        old, new = _by_dtype(self.model), _by_dtype(self._live)
        for dtype, averaged in old.items():
            if n and dtype.is_floating_point:
                move(averaged, new[dtype], None)
            else:
                torch._foreach_copy_(averaged, new[dtype])
        self._count += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights and the number of steps."""
        weights = {f"module.{name}": value for name, value in self.model.state_dict().items()}
        return {"n_averaged": torch.tensor(self._count), **weights}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go back to a state that `state_dict` gave."""
        weights = {name.removeprefix("module."): value for name, value in state.items()}
        self._count = int(weights.pop("n_averaged"))
        self.model.load_state_dict(weights)


def _by_dtype(model: nn.Module) -> dict[torch.dtype, list[Tensor]]:
    """Parameters and buffers in their order, which is the same in a copy of the model."""
    found: dict[torch.dtype, list[Tensor]] = {}
    for value in (*model.parameters(), *model.buffers()):
        found.setdefault(value.dtype, []).append(value)
    return found
