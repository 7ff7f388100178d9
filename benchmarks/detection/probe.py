"""Hypergradients of a run beside exact ones, where the run is, without changing it."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bilevel import Hypergradient, HypergradientMethod, Unrolled
from bilevel.diagnostics._memory import peak_bytes
from bilevel.diagnostics.compare import distance
from bilevel.errors import BilevelError, LinearSolveWarning
from istd.engine import TrainConfig, read_lines
from istd.engine.batches import TrainBatch
from istd.engine.methods import SemanticPrior
from istd.engine.run_folder import JsonLines


class Probe:
    """Compares, at the first outer step of some visits, the method's hypergradient with exact ones.

    Exact is `bilevel.Unrolled(T)` from the same parameters and optimiser state, on the same batches, of the
    run's own two losses; for T = 1 it is what one training step does to the outer loss. `Solver` leaves
    parameters, buffers, optimisers and generators as they were after a hypergradient, so the run goes on as
    if nothing had been asked.

    Args:
        path: where records go, one JSON object a line.
        count: about how many visits of the run to look at: every n-th one, n the whole number nearest to
            visits / count.
        steps: T of the exact ones.
    """

    def __init__(self, path: Path, count: int, steps: Sequence[int]) -> None:
        self._path = path
        if path.exists():  # a line that a kill cut off would swallow the next one
            log = JsonLines(path)
            log.cut(log.count)
        self._count = count
        self._steps = tuple(steps)
        self._epoch = -1
        self.seconds = 0.0
        self.cpu_seconds = 0.0

    def attach(self, method: SemanticPrior, config: TrainConfig, epoch: Callable[[], int]) -> None:
        """Look at the outer steps of `method`; `epoch()` tells where the run stands."""
        take_step = method.outer_step

        def outer_step(train: TrainBatch, val: TrainBatch) -> dict[str, float]:
            now = epoch()
            if now != self._epoch and self._is_due(now, config):
                method.model.train()  # as the step that follows
                self._record(method, train, val, now)
            self._epoch = now
            return take_step(train, val)

        method.outer_step = outer_step  # type: ignore[method-assign]

    def _is_due(self, epoch: int, config: TrainConfig) -> bool:
        visits = math.ceil(config.epochs / config.outer_interval)
        stride = max(1, round(visits / max(1, self._count)))
        return (epoch // config.outer_interval) % stride == 0

    def _record(self, method: SemanticPrior, train: TrainBatch, val: TrainBatch, epoch: int) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        record: dict[str, Any] = {"epoch": epoch}
        try:
            record |= self._compare(method, train, val)
        except BilevelError as error:
            record["failure"] = f"{type(error).__name__}: {error}"
        JsonLines(self._path).append(record)
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu

    def _compare(self, method: SemanticPrior, train: TrainBatch, val: TrainBatch) -> dict[str, Any]:
        solver, own = method.solver, method.solver.method

        def ask(way: HypergradientMethod) -> tuple[Hypergradient, float]:
            solver.method = way
            began = time.perf_counter()
            found = solver.hypergradient(train, val)
            return found, time.perf_counter() - began

        problem = solver.problem
        known = (*problem.inner.parameters(), *problem.outer.parameters(), *problem.buffers().values())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LinearSolveWarning)  # recorded below
                (found, _), peak = peak_bytes(lambda: ask(own), problem.devices(), known)
                _, seconds = ask(own)
                exact = {steps: ask(Unrolled(steps)) for steps in self._steps}
        finally:
            solver.method = own
        record: dict[str, Any] = {
            "seconds": seconds,
            "peak_bytes": peak,
            "norm": float(found.norm()),
            "outer_loss": float(found.outer_loss),
            "notes": list(found.notes),
        }
        if found.inner_gradient_norm is not None:
            record["inner_gradient_norm"] = float(found.inner_gradient_norm)
        for solve in found.linear_solves:
            record["ihvp"] = {
                "status": solve.status,
                "iterations": solve.iterations,
                "residual": _finite(solve.residual),
                "negative_curvature": solve.negative_curvature,
            }
        record["exact"] = {}
        for steps, (truth, taken) in exact.items():
            error, cosine = distance(found, truth)
            length = float(truth.norm())
            record["exact"][str(steps)] = {
                "cosine": _finite(cosine),
                "relative_error": _finite(error),
                "norm_ratio": record["norm"] / length if length else None,
                "seconds": taken,
            }
        return record


def read_probes(path: Path) -> list[dict[str, Any]]:
    """The records of a run, one for each epoch that was looked at: of one that was repeated, the last."""
    return [*{record["epoch"]: record for record in read_lines(path)}.values()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
