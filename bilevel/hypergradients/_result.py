"""What a hypergradient method answers."""

from __future__ import annotations

import torch
from torch import Tensor

from .._types import NamedTensors
from ..errors import NonFiniteHypergradientError, NonFiniteLossError
from ..linear_solvers import LinearSolveReport
from ..problem import Problem


class Hypergradient(dict[str, Tensor]):
    """dF(w*(λ), λ)/dλ: outer parameter name → tensor of the parameter's shape and type.

    Attributes:
        outer_loss: F where it was differentiated, a detached scalar.
        inner_losses: G before each inner step looked at, detached, shape [steps].
        inner_gradient_norm: ‖∂G/∂w‖ where the method linearised, the error that even an exact linear solve
            keeps; None for unrolled methods.
        linear_solves: what the linear solver has to report.
        notes: what the method did otherwise than asked or expected, in sentences; empty in general.
    """

    def __init__(
        self,
        values: NamedTensors,
        *,
        outer_loss: Tensor,
        inner_losses: Tensor,
        inner_gradient_norm: Tensor | None = None,
        linear_solves: tuple[LinearSolveReport, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(values)
        self.outer_loss = outer_loss
        self.inner_losses = inner_losses
        self.inner_gradient_norm = inner_gradient_norm
        self.linear_solves = linear_solves
        self.notes = notes

    def norm(self) -> Tensor:
        """The Euclidean norm over all outer parameters."""
        return torch.nn.utils.get_total_norm(list(self.values()))

    def check_finite(self, problem: Problem) -> None:
        """Raise if a loss on the way, or the hypergradient, is not finite.

        Raises:
            NonFiniteLossError: names the loss and, in an unroll, the first step at which it happened.
            NonFiniteHypergradientError: names the outer parameters concerned.
        """
        bad = (~torch.isfinite(self.inner_losses)).nonzero().flatten().tolist()
        if bad:
            raise NonFiniteLossError(
                "the inner loss is not finite",
                where=problem.describe("inner"),
                found=f"{self.inner_losses[bad[0]].item()} at step {bad[0]} of {len(self.inner_losses)}",
                fix="lower the inner learning rate, clip, or look for log(0) and 0/0 in the loss",
            )
        if not torch.isfinite(self.outer_loss):
            raise NonFiniteLossError(
                "the outer loss is not finite",
                where=problem.describe("outer"),
                found=self.outer_loss.item(),
                fix="look for log(0) and 0/0 in the loss, or lower the inner learning rate, because the last "
                "unrolled step may have diverged",
            )
        broken = [name for name, value in self.items() if not bool(torch.isfinite(value).all())]
        if broken:
            raise NonFiniteHypergradientError(
                "the hypergradient is not finite, though both losses are",
                where=f"outer parameters {', '.join(broken)}",
                fix="look in the losses for sqrt(0) or norms of 0: finite, but with an infinite slope; "
                "or use fewer unrolled steps, more damping, or on_nonfinite='skip'",
            )
