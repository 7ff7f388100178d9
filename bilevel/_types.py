"""Shared type names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import Tensor

Tensors: TypeAlias = tuple[Tensor, ...]
MaybeTensors: TypeAlias = Sequence[Tensor | None]
NamedTensors: TypeAlias = dict[str, Tensor]
Loss: TypeAlias = Callable[[Any, Any, Any], Tensor]
