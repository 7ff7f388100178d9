"""How a user says "one batch" or "several batches"."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .errors import BatchError


class Batches:
    """Several batches, in order; the only way to hand over more than one.

    For an unrolled inner problem they are the batches of the steps, one a step. For a method that looks at
    one point only (`Implicit`, `GaussNewton`), and for the outer loss, the loss is the mean over them. One
    batch alone is used wherever a batch is needed.

    Args:
        items: the batches, of any type; the iterable is read to its end.
        weights: the weight of each batch in the mean, > 0; None for equal weights. They are normalised.

    Raises:
        BatchError: no batch was given, or the weights do not fit.

    Example:
        >>> solver.step(Batches(itertools.islice(loader, 5)), val_batch)  # doctest: +SKIP
    """

    def __init__(self, items: Iterable[Any], weights: Sequence[float] | None = None) -> None:
        if not isinstance(items, Iterable):
            raise BatchError("not a sequence of batches", where="Batches", found=type(items).__name__)
        self._items = tuple(items)
        if not self._items:
            raise BatchError("there is no batch", where="Batches", expected="at least one batch")
        if weights is not None and not _fit(weights, len(self._items)):
            raise BatchError(
                "the weights do not fit",
                where="Batches(weights)",
                found=weights,
                expected=f"{len(self._items)} positive numbers",
            )
        self._weights = None if weights is None else tuple(w / sum(weights) for w in weights)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __repr__(self) -> str:
        return f"Batches(<{len(self)}>)"

    def at(self, step: int) -> Batches:
        """What step `step` looks at: its batch, or the only one if there is only one.

        An item that is itself a `Batches` is a step whose loss is the mean over several batches.
        """
        item = self._items[0] if len(self._items) == 1 else self._items[step]
        return item if isinstance(item, Batches) else Batches((item,))

    def mean(self, values: Sequence[Tensor]) -> Tensor:
        """The (weighted) mean of one scalar for each batch."""
        if len(values) == 1:
            return values[0]
        stacked = torch.stack(list(values))
        if self._weights is None:
            return stacked.mean()
        return (stacked * torch.tensor(self._weights, dtype=stacked.dtype, device=stacked.device)).sum()

    def flat(self) -> Iterator[tuple[Any, float]]:
        """Each single batch, nested ones included, with its weight in the mean; the weights add up to 1."""
        weights = self._weights or (1 / len(self._items),) * len(self._items)
        for item, weight in zip(self._items, weights, strict=True):
            if isinstance(item, Batches):
                yield from ((one, weight * inner) for one, inner in item.flat())
            else:
                yield item, weight

    def map(self, change: Callable[[Any], Any]) -> Batches:
        """The same structure with each single batch changed."""
        return Batches(
            [item.map(change) if isinstance(item, Batches) else change(item) for item in self._items],
            self._weights,
        )

    def check_steps(self, steps: int, where: str, *, exact: bool = True) -> None:
        """Raise `BatchError` unless there is one batch, or one for each of `steps` steps."""
        count = len(self._items)
        if count == 1 or count == steps or (count > steps and not exact):
            return
        raise BatchError(
            "the number of batches does not fit the number of steps",
            where=where,
            found=f"{count} batches for {steps} steps",
            expected=f"1 batch, used at each step, or {steps}",
        )


def _fit(weights: Sequence[float], count: int) -> bool:
    """Whether these are `count` positive numbers."""
    if not isinstance(weights, Sequence) or len(weights) != count:
        return False
    return all(isinstance(weight, int | float) and 0 < weight < float("inf") for weight in weights)


def as_batches(value: Any, where: str) -> Batches:
    """Read what a user passed as `train` or `val`.

    A `Batches` is itself. Everything else is one batch (a tensor, a tuple, a mapping, an object, the list of
    tensors that a DataLoader yields), save a list made of containers alone: that could be one nested batch
    or a sequence of batches, and guessing wrong would train on the wrong thing without a word.

    Raises:
        BatchError: the value is such an ambiguous list, an empty one, or a loader or iterator of batches.
    """
    if isinstance(value, Batches):
        return value
    if isinstance(value, (DataLoader, Iterator)):
        raise BatchError(
            "not a batch, but what gives batches",
            where=where,
            found=type(value).__name__,
            fix="pass next(iter(loader)), or give the loader to bilevel.fit",
        )
    if isinstance(value, list):
        if not value:
            raise BatchError("the batch is an empty list", where=where)
        if all(isinstance(item, (list, tuple, Mapping)) for item in value):
            raise BatchError(
                "a list of containers may mean one nested batch or a sequence of batches",
                where=where,
                found=f"a list of {len(value)} × {type(value[0]).__name__}",
                fix="write Batches([...]) for a sequence of batches, or tuple([...]) for one batch",
            )
    return Batches((value,))
