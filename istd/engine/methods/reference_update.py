"""The outer update of the public code of arXiv 2605.14346, faults included, to compare with sound ones.

What it does otherwise than the rank-one Gauss-Newton formula (`bilevel.GaussNewton`):

- the lower loss that it differentiates is the *outer* loss on training data, so the weights never meet the
  inner loss that they act in;
- the implicit term has the wrong sign and is scaled by the learning rate of the inner optimiser;
- the outer loss carries the weights too, so it falls when they look away from what is not fitted;
- the step moves the student as well, along the same formula, in an optimiser of its own;
- every evaluation of a loss updates the statistics of batch normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

import bilevel
from bilevel import Batches, Hypergradient, HypergradientMethod, Point


class ReferenceHypergradient(Hypergradient):
    """What the public code writes into the gradients before its optimiser's step.

    Attributes:
        inner: inner parameter name → the direction of that parameter; the student's are used.
        buffers: the problem's buffers after the three evaluations.
    """

    inner: dict[str, Tensor]
    buffers: dict[str, Tensor]


class ReferenceGaussNewton(HypergradientMethod):
    """F_x + η·(⟨F_w, g⟩ / (‖g‖² + ε))·L_x, g = L_w, for x = λ and for x = w alike.

    F is the outer loss on the held-out batch, L the outer loss on the training batch, both at the live
    parameters. Golden case 08 pins it.

    Args:
        learning_rate: asked for η at each call, since the inner learning rate changes over a run.
        eps: ε.
    """

    def __init__(self, learning_rate: Callable[[], float], eps: float = 1e-12) -> None:
        self.learning_rate = learning_rate
        self.eps = eps

    def __call__(self, point: Point) -> ReferenceHypergradient:
        """The compatibility mode's direction at `point`, for outer and inner parameters."""
        x = [value.detach().requires_grad_() for value in (*point.inner.values(), *point.outer.values())]
        w, outer = x[: len(point.inner)], x[len(point.inner) :]

        def differentiate(loss: Tensor) -> tuple[Tensor, list[Tensor]]:
            found = torch.autograd.grad(loss, x, allow_unused=True)
            return loss.detach(), [
                torch.zeros_like(value) if grad is None else grad
                for value, grad in zip(x, found, strict=True)
            ]

        def evaluate(batch: Batches, buffers: dict[str, Tensor]) -> tuple[Tensor, list[Tensor], Any]:
            (loss, grads), after = point.run("outer", w, outer, buffers, batch, differentiate)
            return loss, grads, after

        upper_loss, upper, buffers = evaluate(point.val, point.buffers)
        lower_loss, lower, buffers = evaluate(point.train, buffers)
        # The public code evaluates the lower loss once more; only batch normalisation can tell.
        _, buffers = point.run("outer", w, outer, buffers, point.train, lambda loss: None)
        product = sum(((f * g).sum() for f, g in zip(upper[: len(w)], lower, strict=False)), upper_loss * 0)
        square = sum((g.square().sum() for g in lower[: len(w)]), lower_loss * 0)
        scale = self.learning_rate() * product / (square + self.eps)
        direction = [f + scale * g for f, g in zip(upper, lower, strict=True)]
        answer = ReferenceHypergradient(
            point.named_outer(direction[len(w) :]),
            outer_loss=upper_loss,
            inner_losses=lower_loss[None],
            inner_gradient_norm=square.sqrt(),
        )
        answer.inner = dict(zip(point.inner, direction[: len(w)], strict=True))
        answer.buffers = buffers
        return answer


class ReferenceStep:
    """Takes outer steps as the public code does: student and weights together, buffers included.

    The public code puts both into one AdamW; it works entry by entry, so two of equal settings are the same.

    Args:
        solver: made with `ReferenceGaussNewton`; its outer optimiser moves the weights.
        student: the module whose parameters, among the solver's inner ones, move as well.
        optimizers: of the weights and of the student.
    """

    def __init__(
        self, solver: bilevel.Solver, student: nn.Module, optimizers: Iterable[torch.optim.Optimizer]
    ) -> None:
        self._solver = solver
        self._optimizers = tuple(optimizers)
        ids = {id(parameter) for parameter in student.parameters()}
        problem = solver.problem
        self._student = {name: p for name, p in problem.inner_parameters().items() if id(p) in ids}

    def __call__(self, train: Any, val: Any) -> ReferenceHypergradient:
        """One step; raises `bilevel.errors.NonFiniteError` and moves nothing if something is not finite."""
        found = self._solver.hypergradient(train, val)
        assert isinstance(found, ReferenceHypergradient)
        problem = self._solver.problem
        moved = {**{name: found.inner[name] for name in self._student}, **found}
        live = {**self._student, **problem.outer_parameters()}
        for name, parameter in live.items():
            parameter.grad = moved[name]
        for optimizer in self._optimizers:
            optimizer.step()
        for parameter in live.values():
            parameter.grad = None
        with torch.no_grad():
            for name, buffer in problem.buffers().items():
                buffer.copy_(found.buffers[name])
        return found
