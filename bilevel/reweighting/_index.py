"""The index of a batch: which entry of a table each sample looks up."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import BatchError


def as_integers(values: Tensor, where: str, shape: str) -> Tensor:
    """The values as int64: torch would take uint8 for a mask.

    Raises:
        BatchError: they are not a vector of integers.
    """
    if not isinstance(values, Tensor):
        raise BatchError(
            "not a tensor", where=where, found=type(values).__name__, expected=f"integers of shape {shape}"
        )
    no_integers = values.is_floating_point() or values.is_complex() or values.dtype == torch.bool
    if values.dim() != 1 or no_integers:
        raise BatchError(
            "not a vector of integers",
            where=where,
            found=f"shape {tuple(values.shape)}, type {values.dtype}",
            expected=f"integers of shape {shape}",
        )
    return values.long()


def as_index(index: Tensor, size: int, where: str) -> Tensor:
    """The index as int64, within a table of `size` entries: torch would count negative ones from the end.

    On CUDA, where looking would wait for all work before it, one outside of the table is an assertion on the
    device, as in torch's own lookups: it ends the process's use of CUDA with this message on stderr.

    Raises:
        BatchError: it is not a vector of integers, or one is outside of the table.
    """
    index = as_integers(index, where, "[B]")
    inside = ((index >= 0) & (index < size)).all()
    if index.is_cuda:
        torch._assert_async(inside, f"{where}: an index outside of the table, expected 0 to {size - 1}")
    elif not inside:
        raise BatchError(
            "an index outside of the table",
            where=where,
            found=f"indices from {int(index.min())} to {int(index.max())}",
            expected=f"0 to {size - 1}",
        )
    return index
