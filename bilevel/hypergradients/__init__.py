"""Hypergradient methods: interchangeable objects with one call."""

from ._base import HypergradientMethod, Point
from ._evaluate import hypergradient
from ._result import Hypergradient
from .gauss_newton import GaussNewton
from .implicit import Implicit
from .unrolled import Unrolled

__all__ = [
    "GaussNewton",
    "Hypergradient",
    "HypergradientMethod",
    "Implicit",
    "Point",
    "Unrolled",
    "hypergradient",
]
