"""Two ways to do one thing: checked once, then timed in turns."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

Job = dict[str, Any]
"""The settings of a measurement, as JSON; see `cli.py`."""


@dataclass
class Contest:
    """One thing to time.

    Attributes:
        name: what is measured.
        ours, reference: do it once; None where a side cannot, or is not wanted.
        check: how far the two sides' results are apart; None without a reference.
        bound: the largest distance that counts as equal.
        per: how many units (images, steps) one call does; seconds are divided by it.
        note: what to know about the row.
        extra: more than the same arithmetic; shown, and left out of every ratio.
    """

    name: str
    ours: Callable[[], object] | None
    reference: Callable[[], object] | None = None
    check: Callable[[], float] | None = None
    bound: float = 0.0
    per: int = 1
    note: str = ""
    extra: bool = False


@dataclass
class Row:
    """What came out of a contest: seconds of each round, per unit."""

    name: str
    ours: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    distance: float | None = None
    bound: float = 0.0
    note: str = ""
    extra: bool = False


def run(contest: Contest, job: Job) -> Row:
    """Check, warm up, and time the sides in turns, in another order each round.

    Rounds end when `repeats` are taken, or after `budget` seconds; one is always taken.
    """
    row = Row(contest.name, bound=contest.bound, note=contest.note, extra=contest.extra)
    if contest.check is not None:
        row.distance = contest.check()
    sides = [
        (side, seconds)
        for side, seconds in ((contest.ours, row.ours), (contest.reference, row.reference))
        if side is not None
    ]
    for side, _ in sides:
        side()
    began = time.perf_counter()
    for turn in range(job["repeats"]):
        if turn and time.perf_counter() - began > job["budget"]:
            break
        for side, seconds in sides if turn % 2 == 0 else sides[::-1]:
            seconds.append(_once(side, job["device"]) / contest.per)
    return row


def _once(side: Callable[[], object], device: str) -> float:
    gc.collect()
    _wait(device)
    began = time.perf_counter()
    side()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
