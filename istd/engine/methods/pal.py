"""PAL: progressive active learning (Yu et al., ICCV 2025): the detector grows the labels it trains on."""

from __future__ import annotations

from typing import ClassVar, Literal

from .base import PlainMethod
from .registry import register_method


# The figures of its public code but for the start of its labels, which is ours; `label_init=canny` is theirs.
@register_method("pal", epochs=400, loss="hard-bce")
class Pal(PlainMethod):
    """The plain backbone on evolving labels; by default PAL's loss, BCE on the hardest half of the pixels.

    The phases are the loop's: training on the first labels until `evolve_start` (pre-start), then evolution
    and mining until `mine_until` (enhancement), then evolution alone (refinement).
    """

    supervision: ClassVar[Literal["masks", "points"]] = "points"
