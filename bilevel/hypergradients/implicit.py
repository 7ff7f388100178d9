"""Hypergradients by the implicit function theorem."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._autograd import gradients, leaves, pull_back, subtract
from .._flat import Flat
from .._types import MaybeTensors
from ..errors import OptionError
from ..linear_solvers import LinearSolver, LinearSolveReport
from ._base import HypergradientMethod, Point
from ._outer import outer_gradients
from ._result import Hypergradient


@dataclass(frozen=True)
class Implicit(HypergradientMethod):
    """F_λ − G_λw x, where x solves G_ww x = F_w, all at the live parameters.

    Exact where the inner gradient is zero and the solve is exact; off that point the error is of the order
    of ‖G_w‖, reported as `inner_gradient_norm` (Pedregosa 2016; Lorraine et al. 2020; Grazzi et al. 2020).
    How the linear solve went is in `linear_solves`. The inner loss is evaluated once, so that all products
    of one solve see the same dropout masks; its graph is kept until the solve ends. Inner parameters that
    the inner loss does not use take no part.

    Args:
        linear_solver: how to solve with the Hessian, for example `ConjugateGradient()`.

    Raises:
        OptionError: `linear_solver` is not a linear solver.
    """

    linear_solver: LinearSolver

    def __post_init__(self) -> None:
        if not isinstance(self.linear_solver, LinearSolver):
            raise OptionError(
                "not a linear solver",
                where="Implicit(linear_solver)",
                found=repr(self.linear_solver),
                expected="an instance such as ConjugateGradient() or Neumann(step_size=0.1)",
            )

    def __call__(self, point: Point) -> Hypergradient:
        """The hypergradient at `point`."""
        final = outer_gradients(point, tuple(point.inner.values()), point.buffers)
        w, outer = leaves(point.inner.values()), leaves(point.outer.values())

        def solve(loss: Tensor) -> tuple[Tensor, Tensor, MaybeTensors, tuple[LinearSolveReport, ...]]:
            grads = gradients(loss, w, create_graph=True)
            point.check_inner_gradient(grads, twice=True)
            used = [i for i, grad in enumerate(grads) if grad is not None]
            wanted = [w[i] for i in used]
            present = [grad for grad in grads if grad is not None]
            flat = Flat(wanted)

            def hessian(vector: Tensor) -> Tensor:
                return flat.pack(pull_back(present, wanted, flat.unpack(vector), retain_graph=True))

            right = flat.pack([final.inner[i] for i in used])
            reports: tuple[LinearSolveReport, ...] = ()
            solution = torch.full_like(right, math.nan)  # what a solver makes of NaN is finite, and wrong
            if bool(torch.isfinite(right).all()):
                solution, report = self.linear_solver.solve(hessian, right)
                reports = (report,)
            mixed = pull_back(present, outer, flat.unpack(solution))
            norm = flat.pack([grad.detach() for grad in present]).norm()
            return loss.detach(), norm, mixed, reports

        (loss, norm, mixed, reports), _ = point.run("inner", w, outer, point.buffers, point.train, solve)
        return point.answer(
            subtract(final.outer, mixed),
            outer_loss=final.loss,
            inner_losses=torch.stack([loss]),
            inner_gradient_norm=norm,
            linear_solves=reports,
        )
