"""Batch normalisation over a batch of which several processes hold a part each."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .._batch_parts import current_parts
from ..errors import ModelError


class JointBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with the mean and variance of the whole batch, in training (`istd._batch_parts`).

    torch's SyncBatchNorm works on CUDA only and cannot be differentiated twice, as hypergradients do. Here
    the statistics of the parts are joined by one message, and everything is made of ordinary operations.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → the same shape.

        Raises:
            ModelError: in training, fewer than two values a channel in the whole batch: no variance.
        """
        parts = current_parts()
        count = parts.size * x.numel() // x.shape[1]  # values a channel
        if self.training and count < 2:
            raise _no_variance(x, parts.size)
        if not self.training or parts.size == 1:
            return super().forward(x)
        values = x if x.dtype == torch.float64 else x.float()
        own_variance, own_mean = torch.var_mean(values, (0, 2, 3), correction=0)
        means, variances = parts.stacked(torch.stack([own_mean, own_variance])).unbind(1)
        mean = means.mean(0)
        # Not the mean of squares minus the squared mean, which loses digits.
        variance = (variances + (means - mean).square()).mean(0)
        self._follow(mean, variance, count)
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        return (values * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics; `count` values a channel."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - share).add_(mean, alpha=share)
        self.running_var.mul_(1 - share).add_(variance * (count / (count - 1)), alpha=share)


def _no_variance(x: Tensor, processes: int) -> ModelError:
    return ModelError(
        "batch normalisation cannot train on fewer than two values a channel",
        found=f"{tuple(x.shape)} in each of {processes} process(es)",
        fix="use a larger --batch-size or --crop",
    )


def join_norms(model: nn.Module) -> None:
    """Let every batch normalisation of `model` use the statistics of the whole batch, in place.

    Names, parameters and buffers stay what they are.

    Raises:
        ModelError: there is another kind of batch normalisation, whose statistics would be those of a part.
    """
    for name, module in model.named_modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = JointBatchNorm2d  # a copy would leave hooks and ties behind
        elif isinstance(module, _BatchNorm) and not isinstance(module, JointBatchNorm2d | nn.SyncBatchNorm):
            raise ModelError(
                "the network has batch normalisation that knows its own process's images only",
                found=f"{type(module).__name__} at {name}",
                expected="nn.BatchNorm2d",
                fix="train in one process, or use nn.BatchNorm2d in this network",
            )
