"""Several tensors as one vector, for linear algebra."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._types import MaybeTensors, Tensors


class Flat:
    """Packs tensors shaped like the given ones into one vector [n] and unpacks it again.

    Args:
        like: tensors on one device; the vector's type is the one that holds all of theirs.
    """

    def __init__(self, like: Sequence[Tensor]) -> None:
        self._like = tuple(like)
        self._sizes = [tensor.numel() for tensor in like]

    def pack(self, tensors: MaybeTensors) -> Tensor:
        """One vector; None becomes zeros."""
        return torch.cat(
            [
                torch.zeros(like.numel(), dtype=like.dtype, device=like.device)
                if tensor is None
                else tensor.reshape(-1)
                for tensor, like in zip(tensors, self._like, strict=True)
            ]
        )

    def unpack(self, vector: Tensor) -> Tensors:
        """The tensors, as views where the types agree."""
        return tuple(
            part.view(like.shape).to(like.dtype)
            for part, like in zip(vector.split(self._sizes), self._like, strict=True)
        )
