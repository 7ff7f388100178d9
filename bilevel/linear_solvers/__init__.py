"""Linear solvers for inverse-Hessian-vector products: one solver a file, one call, one report."""

from ._base import LinearSolver, LinearSolveReport
from .conjugate_gradient import ConjugateGradient
from .dense_solve import DenseSolve
from .fixed_point import FixedPoint
from .neumann import Neumann
from .nystrom import Nystrom

__all__ = [
    "ConjugateGradient",
    "DenseSolve",
    "FixedPoint",
    "LinearSolveReport",
    "LinearSolver",
    "Neumann",
    "Nystrom",
]
