"""Batches of any nested type: moved to a device, cut into micro-batches."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, MutableMapping
from typing import Any

import torch
from torch import Tensor

from .batches import Batches
from .errors import BatchError


def map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same nest of tuples, named tuples, lists, mappings and dataclasses with each leaf changed."""
    if hasattr(value, "to"):  # it moves by itself, as a tensor or a PackedSequence does
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_leaves(one, change) for one in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_leaves(one, change) for one in value)
    if isinstance(value, MutableMapping):
        mapping = copy.copy(value)
        for key in value:
            mapping[key] = map_leaves(value[key], change)
        return mapping
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        mapped = copy.copy(value)
        for field in dataclasses.fields(value):
            # Frozen dataclasses too; and __post_init__ must not run again on what it already changed.
            object.__setattr__(mapped, field.name, map_leaves(getattr(value, field.name), change))
        return mapped
    return change(value)


def to_device(batch: Any, device: torch.device) -> Any:
    """Every tensor, and every object with a `to` method, on the device; everything else as it is."""
    # Elsewhere a copy that nobody waits for could be read before it is there.
    late = device.type == "cuda"
    return map_leaves(
        batch,
        lambda leaf: leaf.to(device, non_blocking=late) if isinstance(leaf, Tensor) else _to(leaf, device),
    )


def split(batch: Any, size: int, where: str) -> Batches:
    """Cut a batch into micro-batches of at most `size` samples, weighted by their number of samples.

    Every tensor with a dimension is cut along its first one; scalars and everything that is not a tensor go
    to each micro-batch whole. The weighted mean of a mean loss over them is the loss of the whole batch.

    Raises:
        BatchError: there is no tensor to cut, the tensors disagree on the number of samples, or an object
            with a `to` method, such as a PackedSequence, may hold samples of its own.
    """
    lengths: set[int] = set()

    def measure(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            lengths.update(leaf.shape[:1])
        elif hasattr(leaf, "to") and not isinstance(leaf, type):
            raise BatchError(
                "the batch cannot be cut into micro-batches",
                where=where,
                found=f"a {type(leaf).__name__}, which may hold samples of its own",
                expected="tensors",
                fix="pass Batches of micro-batches instead",
            )
        return leaf

    map_leaves(batch, measure)
    if len(lengths) != 1 or lengths == {0}:
        raise BatchError(
            "the batch cannot be cut into micro-batches",
            where=where,
            found=f"first dimensions {sorted(lengths)}"
            if lengths
            else f"no tensor in a {type(batch).__name__}",
            expected="tensors that all have the samples along their first dimension",
            fix="pass Batches of micro-batches instead",
        )
    (length,) = lengths
    starts = range(0, length, size)

    def part(start: int) -> Any:
        return map_leaves(
            batch,
            lambda leaf: leaf[start : start + size] if isinstance(leaf, Tensor) and leaf.dim() > 0 else leaf,
        )

    return Batches([part(start) for start in starts], [min(size, length - start) for start in starts])


def _to(leaf: Any, device: torch.device) -> Any:
    move = getattr(leaf, "to", None)
    return move(device) if callable(move) else leaf
