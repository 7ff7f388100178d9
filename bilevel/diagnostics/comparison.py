"""What `compare` answers: data, a table, a plot."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from ..errors import MissingDependencyError
from ..hypergradients import HypergradientMethod
from ..linear_solvers import LinearSolveReport


@dataclass(frozen=True)
class Estimate:
    """One method on one pair of batches.

    Attributes:
        relative_error: ‖h − h*‖ / ‖h*‖ over all outer parameters, h* being the reference's answer.
        cosine: of the angle between h and h*.
        norm: ‖h‖.
        seconds: wall-clock seconds of the fastest timed call.
        peak_bytes: most bytes needed at once, above those before the call; see `Comparison.memory`.
        inner_gradient_norm: ‖∂G/∂w‖ where an implicit method linearised; its error even with an exact solve.
        linear_solves: how the linear solves went.
        notes: what the method did otherwise than asked, such as a fall-back.
    """

    relative_error: float
    cosine: float
    norm: float
    seconds: float
    peak_bytes: int
    inner_gradient_norm: float | None
    linear_solves: tuple[LinearSolveReport, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MethodResult:
    """One method on all pairs of batches.

    Attributes:
        name: as in the table.
        method: the method itself.
        estimates: one for each pair, up to the first failure.
        failure: the error that stopped it, or None.
    """

    name: str
    method: HypergradientMethod
    estimates: tuple[Estimate, ...]
    failure: str | None = None

    @property
    def relative_error(self) -> float:
        """The median over the pairs; NaN if there is none."""
        return self._median(lambda one: one.relative_error)

    @property
    def cosine(self) -> float:
        """The median over the pairs."""
        return self._median(lambda one: one.cosine)

    @property
    def seconds(self) -> float:
        """The median over the pairs."""
        return self._median(lambda one: one.seconds)

    @property
    def peak_bytes(self) -> float:
        """The largest over the pairs."""
        return max((float(one.peak_bytes) for one in self.estimates), default=math.nan)

    @property
    def residual(self) -> float | None:
        """The largest relative residual of a linear solve; None if nothing was solved."""
        return max((r.residual for one in self.estimates for r in one.linear_solves), default=None)

    @property
    def statuses(self) -> tuple[str, ...]:
        """The different ways in which the linear solves ended."""
        return tuple(dict.fromkeys(r.status for one in self.estimates for r in one.linear_solves))

    @property
    def notes(self) -> tuple[str, ...]:
        """The different notes of the method."""
        return tuple(dict.fromkeys(note for one in self.estimates for note in one.notes))

    def _median(self, value: Callable[[Estimate], float]) -> float:
        values = [value(one) for one in self.estimates]
        return statistics.median(values) if values else math.nan


@dataclass(frozen=True)
class Comparison:
    """What `compare` measured; `print` shows it as a table.

    Attributes:
        reference: the name of the exact method.
        results: one a method, in the order given.
        memory: what the peak counts: `"live CPU tensors"` (storages that operators return, without scratch
            space inside an operator) or `"CUDA allocator"` (torch's own statistics).
    """

    reference: str
    results: tuple[MethodResult, ...]
    memory: str

    def __getitem__(self, name: str) -> MethodResult:
        return {result.name: result for result in self.results}[name]

    def table(self) -> Table:
        """The table, for rich."""
        pairs = max((len(result.estimates) for result in self.results), default=0)
        table = Table(
            title="hypergradients",
            caption=f"error and cosine against {self.reference}; median over {pairs} pair(s) of batches; "
            f"memory: peak of {self.memory}",
        )
        last = "linear solve, notes"
        for heading in ("method", "rel. error", "cosine", "seconds", "peak", "residual", last):
            table.add_column(heading, justify="left" if heading in ("method", last) else "right")
        for result in self.results:
            if result.failure is not None:
                table.add_row(result.name, "failed", "", "", "", "", result.failure.splitlines()[0])
                continue
            residual = result.residual
            table.add_row(
                result.name,
                f"{result.relative_error:.1e}",
                f"{result.cosine:.4f}",
                f"{result.seconds:.2g}",
                _size(result.peak_bytes),
                "" if residual is None else f"{residual:.1e}",
                "; ".join((*result.statuses, *result.notes)),
            )
        return table

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=120).print(self.table())
        return text.getvalue()

    def plot(
        self, path: str | Path | None = None, *, cost: Literal["seconds", "peak_bytes"] = "seconds"
    ) -> Any:
        """Draw error against cost, both axes logarithmic; methods that failed are left out.

        Args:
            path: where to save it, if anywhere.
            cost: `"seconds"` or `"peak_bytes"`.

        Returns:
            The matplotlib figure.

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingDependencyError(
                "matplotlib is needed to plot",
                where="Comparison.plot",
                fix="pip install matplotlib, or read Comparison.results",
            ) from error
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for result in self.results:
            if result.failure is None:
                # An error of exactly 0, the reference itself, has no place on a logarithmic axis.
                error_shown = max(result.relative_error, 1e-16)
                axes.plot(getattr(result, cost), error_shown, "o")
                axes.annotate(
                    result.name,
                    (getattr(result, cost), error_shown),
                    xytext=(5, 4),
                    textcoords="offset points",
                    fontsize=7,
                )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.margins(0.2)
        axes.set_xlabel("seconds" if cost == "seconds" else f"peak bytes ({self.memory})")
        axes.set_ylabel("relative error")
        axes.set_title(f"against {self.reference}", fontsize=7, wrap=True)
        axes.tick_params(axis="x", which="minor", labelsize=6, labelrotation=30)
        axes.grid(alpha=0.3)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
