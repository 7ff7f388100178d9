"""Training methods behind one interface. A new one is one file that registers itself, and one import here."""

from .base import Method, PlainMethod, average_gradients
from .full import Full
from .lesps import Lesps
from .pal import Pal
from .registry import list_methods, method_class, register_method
from .semantic_prior import SemanticPrior

__all__ = [
    "Full",
    "Lesps",
    "Method",
    "Pal",
    "PlainMethod",
    "SemanticPrior",
    "average_gradients",
    "list_methods",
    "method_class",
    "register_method",
]
