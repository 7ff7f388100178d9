"""Look at a bilevel problem before trusting it: compare methods, check one against differences."""

from .check import check
from .compare import compare
from .comparison import Comparison, Estimate, MethodResult
from .obstacles import Obstacle, find_obstacles
from .report import CheckReport, Direction

__all__ = [
    "CheckReport",
    "Comparison",
    "Direction",
    "Estimate",
    "MethodResult",
    "Obstacle",
    "check",
    "compare",
    "find_obstacles",
]
