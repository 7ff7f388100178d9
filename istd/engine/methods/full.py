"""Full supervision: the plain backbone on the true masks, the upper bound to compare with."""

from __future__ import annotations

from typing import ClassVar, Literal

from .base import PlainMethod
from .registry import register_method


@register_method("full")  # the same schedule, so that the two can be compared
class Full(PlainMethod):
    """Trains on `batch.label`, which the loop fills from the masks."""

    supervision: ClassVar[Literal["masks", "points"]] = "masks"
