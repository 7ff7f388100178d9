"""A plain training loop over iterables of batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from ._info import StepInfo
from ._numbers import check_numbers
from .batches import Batches
from .errors import BatchError
from .solver import Solver


def fit(
    solver: Solver, train: Iterable[Any], val: Iterable[Any], *, steps: int, batches_per_step: int = 1
) -> StepInfo:
    """Take `steps` solver steps; both iterables are begun again whenever they end.

    Args:
        solver: what steps.
        train: batches of the inner loss, of any type, such as a DataLoader.
        val: batches of the outer loss, one a step.
        steps: how many `Solver.step`, ≥ 1.
        batches_per_step: how many training batches one step takes: 1, used by all unrolled and live inner
            steps of it, or as many as those steps are.

    Returns:
        What the last step said; callbacks of the solver see all.

    Raises:
        OptionError: a count is no whole number, or below 1.
        BatchError: an iterable is empty, or ended and cannot be begun again.
    """
    check_numbers("fit", whole={"steps": steps, "batches_per_step": batches_per_step})
    training, validation = _endless(train, "train"), _endless(val, "val")
    for _ in range(steps):
        batches = Batches([Batches((one,)) for one in itertools.islice(training, batches_per_step)])
        info = solver.step(batches, Batches((next(validation),)))
    return info


def _endless(batches: Iterable[Any], where: str) -> Iterator[Any]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise BatchError(
                "no batch, or none left",
                where=where,
                found=type(batches).__name__,
                expected="an iterable that can be begun again, such as a list or a DataLoader",
            )
