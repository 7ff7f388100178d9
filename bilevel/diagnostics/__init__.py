"""Look at a bilevel problem before trusting it: compare methods, check one against differences."""

from .compare import compare
from .comparison import Comparison, Estimate, MethodResult

__all__ = ["Comparison", "Estimate", "MethodResult", "compare"]
