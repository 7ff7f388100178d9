"""One-step online re-weighting (Ren et al., ICML 2018)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..distributed import find_group
from ..errors import BilevelError, LossError, OptionError
from ..hypergradients import Unrolled, hypergradient
from ..problem import Problem


class OnlineReweighting:
    """Weights of a batch from how one step on each of its samples would change the outer loss.

    With ε = 0 and ŵ(ε) = w − ∇_w Σᵢ εᵢ Lᵢ(w), uᵢ = −∂F(ŵ(ε))/∂εᵢ = ⟨∇F(w), ∇Lᵢ(w)⟩ is the slope by which
    sample i lowers the outer loss; the weights are max(uᵢ, 0) / Σⱼ max(uⱼ, 0) (equations 10 to 13 of the
    paper, whose step size cancels). They are computed afresh for every batch: nothing is learned or stored.

    Call it with a training and an outer batch, then train on `(weights * sample_loss(model, batch)).sum()`.
    Like every hypergradient it leaves parameters, BatchNorm statistics and random generators as they are.

    Several processes would have to share the outer gradient and the sum of the weights, which is not done:
    there it refuses to work, unless the weights are to be those of each process on its own.

    Args:
        sample_loss: `sample_loss(model, batch)` → the loss of each sample, shape [B].
        outer_loss: `outer_loss(model, batch)` → scalar on trusted samples.
        model: the network to be trained.
        process_group: `"auto"` refuses where torch.distributed runs several processes; None weighs the
            samples of this process by its own outer batch alone.
    """

    def __init__(
        self,
        sample_loss: Callable[[Any, Any], Tensor],
        outer_loss: Callable[[Any, Any], Tensor],
        model: nn.Module,
        *,
        process_group: Literal["auto"] | None = "auto",
    ) -> None:
        for name, loss in (("sample_loss", sample_loss), ("outer_loss", outer_loss)):
            if not callable(loss):
                raise OptionError("not callable", where=name, found=type(loss).__name__)
        if not isinstance(model, nn.Module):
            raise OptionError("not a torch.nn.Module", where="model", found=type(model).__name__)
        self.sample_loss = sample_loss
        self.outer_loss = outer_loss
        self.model = model
        self.process_group = process_group
        self._problem = self._build(1)
        self._size = 0

    def __call__(self, train: Any, val: Any) -> Tensor:
        """The weights of one training batch.

        Returns:
            Shape [B], ≥ 0, with sum 1; all 0 if no sample of the batch would lower the outer loss.

        Raises:
            LossError: `sample_loss` does not answer one number a sample.
            OptionError: there are several processes, and `process_group` is not None.
            BilevelError: see `bilevel.hypergradient`.
        """
        if find_group(self.process_group) is not None:
            raise OptionError(
                "weights are not normalised over several processes",
                where="OnlineReweighting",
                fix="process_group=None for weights of each process alone, or SampleWeights or MetaWeightNet "
                "in a Solver",
            )
        try:
            slope = self._slope(train, val)
        except _LargerBatch as larger:
            self._problem = self._build(larger.size)
            slope = self._slope(train, val)
        helpful = (-slope).clamp(min=0)
        total = helpful.sum()
        return helpful / total if total > 0 else helpful

    def _slope(self, train: Any, val: Any) -> Tensor:
        """∂F(ŵ(ε))/∂ε at 0, shape [B]."""
        # Plain gradient descent whatever optimiser trains the model, as in the paper.
        step = torch.optim.SGD(list(self._problem.inner_parameters().values()), lr=1.0)
        found = hypergradient(self._problem, Unrolled(steps=1), train, val, optimizer=step)
        found.check_finite(self._problem)
        (slope,) = found.values()
        return slope[: self._size]

    def _build(self, capacity: int) -> Problem:
        like = next(self.model.parameters())
        epsilon = nn.Parameter(torch.zeros(capacity, dtype=like.dtype, device=like.device))
        return Problem(self._inner, self._outer, self.model, nn.ParameterList([epsilon]))

    def _inner(self, model: nn.Module, epsilon: nn.ParameterList, batch: Any) -> Tensor:
        losses = self.sample_loss(model, batch)
        if not isinstance(losses, Tensor) or losses.dim() != 1 or not losses.is_floating_point():
            raise LossError(
                "not one loss a sample",
                where="sample_loss",
                found=f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__,
                expected="a floating-point tensor of shape [B]",
                fix='compute the loss with reduction="none"',
            )
        self._size = len(losses)
        if self._size > len(epsilon[0]):
            raise _LargerBatch(self._size)
        return (epsilon[0][: self._size] * losses).sum()

    def _outer(self, model: nn.Module, epsilon: nn.ParameterList, batch: Any) -> Tensor:
        return self.outer_loss(model, batch)


class _LargerBatch(BilevelError):
    """The batch has more samples than any before it."""

    def __init__(self, size: int) -> None:
        super().__init__("a larger batch than before", found=size)
        self.size = size
