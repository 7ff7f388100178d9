"""What bilevel sets itself to reach, read off the rows of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .methods import METHODS
from .rows import Row
from .tasks import CLUSTERS

_ADJOINT, _CHECKPOINTS = "bilevel Unrolled adjoint", "bilevel Unrolled √T checkpoints"
_FORWARD = "bilevel ForwardMode"


@dataclass(frozen=True)
class Target:
    """A figure, what it should be, and whether it is. A problem without the rows for it has no entry."""

    problem: str
    what: str
    found: float
    bound: str
    met: bool


def targets(rows: list[Row]) -> list[Target]:
    """The targets that these rows can decide."""
    found: list[Target] = []
    for problem in dict.fromkeys(row.problem for row in rows):
        of = {(row.steps, row.method): row for row in rows if row.problem == problem and row.status == "ok"}
        found += _against_peers(problem, of)
        found += _growth(problem, of)
        found += _forward(problem, of)
    return found


Rows = dict[tuple[int, str], Row]


def _best(of: Rows, steps: int, value: Callable[[Row], float | None], graph: bool) -> float | None:
    values = [
        value(row)
        for (t, name), row in of.items()
        if t == steps and METHODS[name].peer and row.exact and (METHODS[name].graph or not graph)
    ]
    return min((one for one in values if one), default=None)


def _against_peers(problem: str, of: Rows) -> Iterator[Target]:
    row = of.get((20, _ADJOINT))
    if row is None:
        return
    memory = _best(of, 20, lambda one: one.tensor_mb, graph=True)
    if memory and row.tensor_mb:
        ratio = memory / row.tensor_mb
        yield Target(problem, "T = 20: leanest graph peer ÷ adjoint, tensor memory", ratio, "≥ 8", ratio >= 8)
    seconds = _best(of, 20, lambda one: one.seconds, graph=False)
    if seconds and row.seconds:
        ratio = row.seconds / seconds
        yield Target(problem, "T = 20: adjoint ÷ fastest exact peer, time", ratio, "≤ 1", ratio <= 1)


def _growth(problem: str, of: Rows) -> Iterator[Target]:
    for method, beyond in ((_ADJOINT, True), (_CHECKPOINTS, False)):
        one, hundred = of.get((1, method)), of.get((100, method))
        if one is None or hundred is None or not one.tensor_mb or not hundred.tensor_mb:
            continue
        ratio = (hundred.tensor_mb - (hundred.trajectory_mb or 0 if beyond else 0)) / one.tensor_mb
        whose = "adjoint beyond the trajectory" if beyond else "√T checkpoints"
        what = f"T = 100 ÷ T = 1, tensor memory of {whose}"
        yield Target(problem, what, ratio, "< 1.5", ratio < 1.5)


def _forward(problem: str, of: Rows) -> Iterator[Target]:
    # Up to as many steps as outer parameters ForwardMode walks all of them back: nothing to compare.
    for steps in sorted({steps for steps, _ in of if steps > CLUSTERS}):
        forward, adjoint = of.get((steps, _FORWARD)), of.get((steps, _ADJOINT))
        if forward is None or adjoint is None or not forward.seconds or not adjoint.seconds:
            continue
        ratio = forward.seconds / adjoint.seconds
        what = f"T = {steps}: ForwardMode ÷ adjoint unroll, time"
        yield Target(problem, what, ratio, "≤ 3", ratio <= 3)
