"""Training methods behind one interface. A new one is one file and one line here."""

from .base import Method, PlainMethod
from .full import Full
from .lesps import Lesps
from .pal import Pal
from .semantic_prior import SemanticPrior

__all__ = ["Full", "Lesps", "Method", "Pal", "PlainMethod", "SemanticPrior"]
