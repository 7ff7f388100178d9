"""Linear solvers for inverse-Hessian-vector products: one solver a file, one call, one report."""

from ._base import LinearSolver, LinearSolveReport
from .conjugate_gradient import ConjugateGradient
from .neumann import Neumann

__all__ = ["ConjugateGradient", "LinearSolveReport", "LinearSolver", "Neumann"]
