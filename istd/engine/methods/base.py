"""What the training loop asks of a method."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..._batch_parts import current_parts
from ...errors import ConfigError
from ...losses import task_loss
from ..batches import TrainBatch
from ..config import TrainConfig


class Method(abc.ABC):
    """One way to train a detector. The loop, the data, the labels and the evaluation are the same for all.

    Attributes:
        supervision: "masks" trains on the true masks, "points" on labels grown from points.
        model: what is trained.
        labeller: which of the model's answers makes new labels, "student" or "teacher".
        has_teacher: whether the model is teacher and student (`TeacherStudent`) or the plain backbone.
        uses_clusters: whether training images are clustered; else all are of one cluster.
        has_outer_problem: whether `outer_step` is called. Labels of validation images evolve for it alone, or
            to be watched where there are masks.

    Raises:
        ConfigError: the run trusts some masks, and the method trains on all.
    """

    supervision: ClassVar[Literal["masks", "points"]]
    labeller: ClassVar[Literal["student", "teacher"]] = "student"
    has_teacher: ClassVar[bool] = False
    uses_clusters: ClassVar[bool] = False
    has_outer_problem: bool = False

    def __init__(self, config: TrainConfig, model: nn.Module) -> None:
        if config.trusted_masks and self.supervision == "masks":
            raise ConfigError(
                f"{type(self).__name__} trains on all masks, so there are none to trust beside",
                found=f"trusted_masks={config.trusted_masks}",
                fix="leave trusted_masks out",
            )
        self.config = config
        self.model = model

    @classmethod
    def build(cls, config: TrainConfig, model: nn.Module, num_clusters: int) -> Method:
        """What the loop calls to make one. The base class has no use for the number of clusters."""
        return cls(config, model)

    @abc.abstractmethod
    def train_step(self, batch: TrainBatch) -> Tensor:
        """Take one optimiser step on a batch; its loss before the step, a scalar on the device.

        It does not wait for a GPU. A loss that is not finite says that the step has spoilt the weights.

        Of several processes each gets an equal part of the batch, and all must take the same step: see
        `average_gradients`, which `PlainMethod` calls; `bilevel.Solver` does the like by itself.
        """

    def outer_step(self, train: TrainBatch, val: TrainBatch) -> dict[str, float]:
        """Take one step of the outer problem; what to log. Only where `has_outer_problem`."""
        raise AssertionError(f"{type(self).__name__} has no outer problem")

    @abc.abstractmethod
    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next `train_step`."""

    def report(self) -> dict[str, float]:
        """What to log once an epoch."""
        return {}

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs: weights, optimisers, outer variables."""

    @abc.abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state; the next steps are then the same, bit for bit."""


class PlainMethod(Method):
    """A method with one network, one loss and one optimiser."""

    def __init__(self, config: TrainConfig, model: nn.Module) -> None:
        super().__init__(config, model)
        self.optimizer = make_optimizer(config, model)

    def loss(self, batch: TrainBatch) -> Tensor:
        """Mean task loss of the batch over all heads, a scalar."""
        config = self.config
        return task_loss(self.model(batch.image), batch.label, config.loss, config.over_outputs).mean()

    def train_step(self, batch: TrainBatch) -> Tensor:
        """Take one optimiser step on `loss`."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch)
        loss.backward()
        average_gradients(self.model)
        self.optimizer.step()
        return loss.detach()

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next `train_step`."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser."""
        return {"model": dict(self.model.state_dict()), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a state that `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def average_gradients(model: nn.Module) -> None:
    """Average the gradients that `backward` left over the processes of the run; nothing in a single one.

    The gradient is then that of the whole batch: its loss is the mean of those of the parts, and batch
    normalisation and the losses of `istd.losses` know of the whole batch already.
    """
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    current_parts().average(grads)


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The inner optimiser that `config` names, over everything in `model` that is trained.

    The fused kernels: one launch on a GPU, three times faster than the default on a CPU (measured).
    """
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = True if all(parameter.device.type in ("cpu", "cuda") for parameter in trained) else None
    optimizer = kind(trained, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
    optimizer.register_load_state_dict_post_hook(_lay_out)
    return optimizer


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Put moments that come from a file into their parameters' memory layout, as fused kernels take them."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)
