"""Hypergradient methods: interchangeable objects with one call."""

from ._base import HypergradientMethod, Point
from ._evaluate import hypergradient
from ._result import Hypergradient
from .forward_mode import ForwardMode
from .gauss_newton import GaussNewton
from .implicit import Implicit
from .unrolled import Unrolled

__all__ = [
    "ForwardMode",
    "GaussNewton",
    "Hypergradient",
    "HypergradientMethod",
    "Implicit",
    "Point",
    "Unrolled",
    "hypergradient",
]
