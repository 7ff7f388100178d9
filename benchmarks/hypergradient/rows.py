"""From cells to rows: errors against the reference, ratios to the best peers, the targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np

from .methods import METHODS
from .store import Cell


@dataclass(frozen=True)
class Row:
    """A cell as it is reported; None where there is nothing to report.

    Attributes:
        seconds: median over `rounds`.
        seconds_spread: half of the distance between the quartiles.
        tensor_mb, resident_mb: peaks, in 10⁶ bytes.
        resident_growth_mb: the peak less what was resident before the hypergradient.
        time_ratio, tensor_ratio, resident_ratio: to the fastest and the leanest exact peer, that is, another
            library's method; to plain autograd where there is none.
        growth: tensor memory over that of the same method at the smallest T.
        error: relative error to `reference`, in the precision of the check.
        cosine: of the angle to `reference`.
        load: of the machine when the run that timed it began.
    """

    problem: str
    steps: int
    method: str
    exact: bool
    status: str
    reason: str
    note: str
    seconds: float | None
    seconds_spread: float | None
    rounds: int
    tensor_mb: float | None
    resident_mb: float | None
    resident_growth_mb: float | None
    trajectory_mb: float | None
    time_ratio: float | None
    tensor_ratio: float | None
    resident_ratio: float | None
    growth: float | None
    error: float | None
    cosine: float | None
    reference: str
    load: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rows(cells: Iterable[Cell]) -> list[Row]:
    """A row for each cell, in the order given; cells of one (problem, steps) are neighbours."""
    cells = list(cells)
    first: dict[tuple[str, str], Cell] = {}
    for cell in sorted((cell for cell in cells if cell.ok), key=lambda cell: cell.steps):
        first.setdefault((cell.problem, cell.method), cell)
    found = []
    for _, group in groupby(cells, key=lambda cell: (cell.problem, cell.steps)):
        together = list(group)
        good = [cell for cell in together if cell.ok]
        exact = [cell for cell in good if METHODS[cell.method].exact]
        reference = exact[0] if exact else None
        peers = [cell for cell in exact if METHODS[cell.method].peer] or [
            cell for cell in exact if not METHODS[cell.method].library
        ]
        for cell in together:
            found.append(_row(cell, peers, reference, first.get((cell.problem, cell.method))))
    return found


def _row(cell: Cell, peers: list[Cell], reference: Cell | None, first: Cell | None) -> Row:
    def ratio(value: Callable[[Cell], float]) -> float | None:
        best = min((value(peer) for peer in peers if value(peer)), default=0.0)
        return value(cell) / best if cell.ok and value(cell) and best else None

    error, cosine = (
        _compare(cell.vector, reference.vector) if cell.ok and reference is not None else (None, None)
    )
    quartiles = np.percentile(cell.seconds, [25, 75]) if cell.seconds else None
    return Row(
        problem=cell.problem,
        steps=cell.steps,
        method=cell.method,
        exact=METHODS[cell.method].exact,
        status=cell.status,
        reason=cell.reason,
        note=cell.note,
        seconds=cell.median or None,
        seconds_spread=None if quartiles is None else float(quartiles[1] - quartiles[0]) / 2,
        rounds=len(cell.seconds),
        tensor_mb=_mb(cell.tensor_bytes),
        resident_mb=_mb(cell.resident_bytes),
        resident_growth_mb=_mb(cell.resident_bytes - cell.resident_before_bytes),
        trajectory_mb=cell.trajectory_bytes / 1e6 if cell.ok else None,
        time_ratio=ratio(lambda one: one.median),
        tensor_ratio=ratio(lambda one: one.tensor_bytes),
        resident_ratio=ratio(lambda one: one.resident_bytes),
        growth=cell.tensor_bytes / first.tensor_bytes if cell.ok and first and first.tensor_bytes else None,
        error=error,
        cosine=cosine,
        reference=reference.method if reference is not None and cell.ok else "",
        load=cell.load,
    )


def _mb(size: int) -> float | None:
    return size / 1e6 if size else None


def _compare(found: list[float], expected: list[float]) -> tuple[float | None, float | None]:
    """Relative error and cosine; None where they are not finite, as with an answer of NaN."""
    a, b = np.asarray(found), np.asarray(expected)
    if a.shape != b.shape:
        return None, None
    with np.errstate(all="ignore"):
        error = float(np.linalg.norm(a - b) / np.linalg.norm(b))
        cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    return (error if math.isfinite(error) else None), (cosine if math.isfinite(cosine) else None)
