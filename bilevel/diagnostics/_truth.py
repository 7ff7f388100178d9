"""F as a function of λ alone, the way each family of methods understands it, without its formula."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import _rng
from .._autograd import detached, gradients, leaves, pull_back
from .._flat import Flat
from .._types import NamedTensors
from ..batches import as_batches
from ..errors import LinearSolveWarning
from ..linear_solvers import ConjugateGradient
from ._steps import InnerSteps
from ._target import Target

_DENSE = 400  # inner parameters up to which the Hessian is formed: that many products, and 1.3 MB


class Truth(ABC):
    """F(w(λ), λ) as a number, for λ near the live outer parameters."""

    meaning: str
    """What w(λ) is, for the report."""

    @abstractmethod
    def __call__(self, shift: NamedTensors) -> float | None:
        """F with λ moved by `shift`; None if w(λ) could not be found."""


class AfterSteps(Truth):
    """w(λ) is where some steps lead from the live parameters."""

    def __init__(self, target: Target, steps: InnerSteps, train: Any, val: Any) -> None:
        self._target, self._steps, self._train, self._val = target, steps, train, val
        self.meaning = steps.meaning

    def __call__(self, shift: NamedTensors) -> float:
        """See `Truth`. The live λ are moved and put back, bit for bit."""
        parameters = self._target.problem.outer_parameters()
        before = {name: p.detach().clone() for name, p in parameters.items()}
        try:
            with torch.no_grad():
                for name, p in parameters.items():
                    p.add_(shift[name])
            return float(self._target(self._steps, self._train, self._val).outer_loss)
        finally:
            with torch.no_grad():
                for name, p in parameters.items():
                    p.copy_(before[name])


class AtMinimum(Truth):
    """w(λ) keeps the inner gradient at its live value: G_w(w(λ), λ) = G_w(w, λ₀).

    At a minimum that is the minimiser. Elsewhere w is the minimiser of the inner loss plus a linear term, of
    which F_λ − G_λw G_ww⁻¹ F_w is the exact derivative all the same: the formula can be checked anywhere.
    w(λ) is found by Newton steps with the Hessian at w; that they arrived is judged by first derivatives.
    """

    def __init__(self, target: Target, train: Any, val: Any) -> None:
        problem = target.problem
        self._problem = problem
        self._train, self._val = as_batches(train, "train"), as_batches(val, "val")
        self._inner = {name: p.detach() for name, p in problem.inner_parameters().items()}
        # Leaves, as in training: a loss may ask which parameters require a gradient.
        self._outer = {name: p.detach().requires_grad_() for name, p in problem.outer_parameters().items()}
        self._flat = Flat(tuple(self._inner.values()))
        self._start = self._flat.pack(tuple(self._inner.values()))
        self._wanted = self._gradient(self._start, self._outer)
        self._solve: Callable[[Tensor], Tensor] | None = None
        self.gradient_norm = float(self._wanted.norm())
        self.meaning = "F at the minimum of the inner loss"

    def __call__(self, shift: NamedTensors) -> float | None:
        """See `Truth`."""
        outer = {name: (value.detach() + shift[name]).requires_grad_() for name, value in self._outer.items()}
        w = self._start
        miss = self._gradient(w, outer) - self._wanted
        first = float(miss.norm())
        goal = torch.finfo(w.dtype).eps * 10 * max(first, self.gradient_norm)
        for _ in range(30):
            if float(miss.norm()) <= goal:
                break
            new = w - self._newton(miss)
            new_miss = self._gradient(new, outer) - self._wanted
            if not float(new_miss.norm()) < float(miss.norm()):
                break
            w, miss = new, new_miss
        if float(miss.norm()) > 1e-5 * first + goal:
            return None
        with _rng.preserved(self._problem.devices()), torch.no_grad():
            loss, _ = self._problem.outer_loss(self._named(w), outer, self._problem.buffers(), self._val)
        return float(loss)

    def _named(self, w: Tensor) -> NamedTensors:
        return dict(zip(self._inner, leaves(self._flat.unpack(w)), strict=True))

    def _gradient(self, w: Tensor, outer: NamedTensors) -> Tensor:
        inner = leaves(self._named(w).values())
        with _rng.preserved(self._problem.devices()), torch.enable_grad():
            grads, _ = self._problem.run(
                "inner",
                dict(zip(self._inner, inner, strict=True)),
                outer,
                self._problem.buffers(),
                self._train,
                lambda loss: gradients(loss, inner),
            )
        return self._flat.pack(tuple(None if g is None else g.detach() for g in grads))

    def _newton(self, miss: Tensor) -> Tensor:
        """G_ww⁻¹ · miss at the live point."""
        if len(miss) > _DENSE:
            solver = ConjugateGradient(max_iterations=300, tolerance=1e-4)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LinearSolveWarning)
                return self._with_hessian(lambda product: solver.solve(product, miss)[0])
        if self._solve is None:
            eye = torch.eye(len(miss), dtype=miss.dtype, device=miss.device)
            hessian = self._with_hessian(lambda product: torch.stack([product(row) for row in eye]))
            inverse = torch.linalg.pinv((hessian + hessian.T) / 2, hermitian=True)
            self._solve = lambda vector: inverse @ vector
        return self._solve(miss)

    def _with_hessian(self, use: Callable[[Callable[[Tensor], Tensor]], Tensor]) -> Tensor:
        """Hand the product with the Hessian at the live point to `use`."""
        inner = leaves(self._inner.values())

        def then(loss: Tensor) -> Tensor:
            grads = gradients(loss, inner, create_graph=True)

            def product(vector: Tensor) -> Tensor:
                found = pull_back(grads, inner, self._flat.unpack(vector), retain_graph=True)
                return self._flat.pack(found)

            return use(product)

        with _rng.preserved(self._problem.devices()), torch.enable_grad():
            answer, _ = self._problem.run(
                "inner",
                dict(zip(self._inner, inner, strict=True)),
                self._outer,
                self._problem.buffers(),
                self._train,
                then,
            )
        return detached([answer])[0]
