"""What `check` answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..linear_solvers import LinearSolveReport
from .obstacles import Obstacle


@dataclass(frozen=True)
class Direction:
    """The slope of F along one unit direction of λ.

    Attributes:
        name: which direction.
        method: ⟨hypergradient, direction⟩.
        differences: the slope by central differences; NaN if F could not be evaluated.
        uncertainty: how far the differences may be off, by truncation and rounding.
    """

    name: str
    method: float
    differences: float
    uncertainty: float


@dataclass(frozen=True)
class CheckReport:
    """A hypergradient method beside central differences; `print` shows it.

    Attributes:
        method: the method, as its repr.
        truth: what the differences are differences of.
        directions: the slopes compared.
        tolerance: the relative error that passes.
        obstacles: operators of the inner loss without a second derivative.
        linear_solves: how the method's linear solves went.
        inner_gradient_norm: ‖∂G/∂w‖ at the live parameters, where the minimum is the truth.
        failure: why the method does not run; None if it does.
        unmeasured: why there are no differences although it runs; None if there are.
        notes: what the method did otherwise than asked, such as a fall-back.
    """

    method: str
    truth: str
    directions: tuple[Direction, ...]
    tolerance: float
    obstacles: tuple[Obstacle, ...]
    linear_solves: tuple[LinearSolveReport, ...]
    inner_gradient_norm: float | None
    failure: str | None = None
    unmeasured: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def relative_error(self) -> float:
        """Norm of the slopes' differences over the norm of the slopes; NaN if a slope is missing."""
        return self._relative([one.method - one.differences for one in self.directions])

    @property
    def uncertainty(self) -> float:
        """How far the relative error may be off because of the differences."""
        return self._relative([one.uncertainty for one in self.directions])

    @property
    def passed(self) -> bool | None:
        """Whether the error is within the tolerance; None if the differences are too rough to tell."""
        if self.failure is not None:
            return False
        error, uncertainty = self.relative_error, self.uncertainty
        if math.isnan(error):
            return None
        if error <= self.tolerance:
            return True
        return None if error <= 3 * uncertainty else False

    def _relative(self, values: list[float]) -> float:
        size = math.hypot(*(one.differences for one in self.directions))
        return math.hypot(*values) / size if size > 0 else math.nan

    def __str__(self) -> str:
        return "\n".join([self._verdict(), *self._slopes(), *self._remarks()])

    def _verdict(self) -> str:
        if self.failure is not None:
            return f"CANNOT RUN  {self.method}\n  {self.failure}"
        error = f"relative error {self.relative_error:.1e}, tolerance {self.tolerance:.0e}"
        good = f"differences good to {self.uncertainty:.0e}"
        match self.passed:
            case True:
                return f"OK  {self.method} is the derivative of {self.truth} ({error}, {good})"
            case False:
                return f"WRONG  {self.method} is not the derivative of {self.truth} ({error}, {good})"
        if self.unmeasured is not None:
            return (
                f"CANNOT TELL  {self.method}: {self.truth} is found by second derivatives, which the inner "
                f"loss lacks; pass steps=... to judge by F after so many inner steps\n  {self.unmeasured}"
            )
        if any(math.isnan(one.differences) for one in self.directions):
            return (
                f"CANNOT TELL  {self.method}: {self.truth} could not be evaluated near the live parameters "
                "(train the inner problem further, or add regularisation)"
            )
        if math.isnan(self.relative_error):
            return f"CANNOT TELL  {self.method}: {self.truth} does not change with λ near the live parameters"
        return (
            f"CANNOT TELL  {self.method}: {error}, but the {good} only; use float64, and smooth operators in "
            "place of ReLU and max-pooling"
        )

    def _slopes(self) -> list[str]:
        if not self.directions:
            return []
        lines = [f"  {'direction':26s} {'method':>14s} {'differences':>14s} {'gap':>9s}"]
        for one in self.directions:
            gap = abs(one.method - one.differences)
            lines.append(f"  {one.name:26s} {one.method:14.6e} {one.differences:14.6e} {gap:9.1e}")
        return lines

    def _remarks(self) -> list[str]:
        lines = [
            f"  {report.solver}: {report.status} after {report.iterations} products, relative residual "
            f"{report.residual:.1e}: {report.advice}"
            for report in self.linear_solves
        ]
        lines += [f"  {note}" for note in self.notes]
        if self.inner_gradient_norm is not None:
            lines.append(
                f"  inner gradient norm {self.inner_gradient_norm:.1e}: the minimiser itself is as far away "
                "as that says; the differences hold this gradient fixed"
            )
        if self.obstacles:
            lines.append("  operators without a second derivative:")
            lines += [f"    {obstacle}" for obstacle in self.obstacles]
        else:
            lines.append("  every operator of the inner loss can be differentiated twice")
        return lines
