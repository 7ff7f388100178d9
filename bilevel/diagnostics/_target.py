"""A problem or a solver, asked for the hypergradient of any method."""

from __future__ import annotations

import copy
from typing import Any

from ..errors import OptionError
from ..hypergradients import Hypergradient, HypergradientMethod, hypergradient
from ..problem import Problem
from ..solver import Solver


class Target:
    """Evaluates methods at the live parameters, with the solver's inner optimiser if there is one.

    Args:
        subject: a `Problem` or a `Solver`.
        optimizer: the inner optimiser of a `Problem`, for methods that unroll it.

    Raises:
        OptionError: `subject` is neither, or a solver was given an optimiser beside its own.
    """

    def __init__(self, subject: Problem | Solver, optimizer: object = None) -> None:
        if not isinstance(subject, Problem | Solver):
            raise OptionError(
                "neither a Problem nor a Solver", where="problem_or_solver", found=type(subject).__name__
            )
        if isinstance(subject, Solver) and optimizer is not None:
            raise OptionError(
                "a solver has its own inner optimiser", where="optimizer", fix="pass solver.problem instead"
            )
        self.problem = subject.problem if isinstance(subject, Solver) else subject
        self._solver = subject if isinstance(subject, Solver) else None
        self._optimizer = optimizer

    def __call__(self, method: HypergradientMethod, train: Any, val: Any) -> Hypergradient:
        """The hypergradient by `method`, as computed: it may hold non-finite numbers."""
        if self._solver is None:
            return hypergradient(self.problem, method, train, val, optimizer=self._optimizer)
        asked = copy.copy(self._solver)
        asked.method = method
        asked.on_nonfinite = "skip"
        return asked.hypergradient(train, val)

    def method(self, chosen: HypergradientMethod | None) -> HypergradientMethod:
        """The method chosen, or else the solver's.

        Raises:
            OptionError: there is none.
        """
        found = chosen or (self._solver.method if self._solver is not None else None)
        if not isinstance(found, HypergradientMethod):
            raise OptionError(
                "not a hypergradient method",
                where="method",
                found=repr(found),
                expected="such as Unrolled(steps=5) or Implicit(ConjugateGradient())",
            )
        return found
