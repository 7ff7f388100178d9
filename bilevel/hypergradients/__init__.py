"""Hypergradient methods: interchangeable objects with one call."""

from ._base import HypergradientMethod, Point
from ._evaluate import hypergradient
from ._result import Hypergradient
from .finite_difference import FiniteDifference
from .forward_mode import ForwardMode
from .gauss_newton import GaussNewton
from .identity import Identity
from .implicit import Implicit
from .penalty import Penalty
from .sama import SAMA
from .unrolled import Unrolled

__all__ = [
    "SAMA",
    "FiniteDifference",
    "ForwardMode",
    "GaussNewton",
    "Hypergradient",
    "HypergradientMethod",
    "Identity",
    "Implicit",
    "Penalty",
    "Point",
    "Unrolled",
    "hypergradient",
]
