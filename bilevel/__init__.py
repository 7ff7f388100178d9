"""Bilevel optimisation in PyTorch: exact and implicit hypergradients, unrolled optimisers, re-weighting.

A user writes two losses on two ordinary modules and steps a `Solver`; the way to differentiate is an object
that can be swapped for another.
"""

from . import errors, logging, optim
from ._info import Seconds, StepInfo
from .batches import Batches
from .callbacks import Callback
from .clipping import Clip, ClipNorm, ClipValue
from .diagnostics import CheckReport, Comparison, check, compare
from .errors import BilevelError, LinearSolveWarning
from .hypergradients import (
    SAMA,
    FiniteDifference,
    ForwardMode,
    GaussNewton,
    Hypergradient,
    HypergradientMethod,
    Identity,
    Implicit,
    Penalty,
    Point,
    Unrolled,
    hypergradient,
)
from .linear_solvers import (
    ConjugateGradient,
    DenseSolve,
    FixedPoint,
    LinearSolver,
    LinearSolveReport,
    Neumann,
    Nystrom,
)
from .optim import LearnedSettings, TorchoptRule, UpdateRule, from_torch, supported_optimizers
from .problem import Problem
from .reweighting import (
    ClassWeights,
    ClusterWeights,
    MetaWeightNet,
    OnlineReweighting,
    SampleWeights,
    SoftLabels,
)
from .solver import Solver
from .training import fit

__all__ = [
    "SAMA",
    "Batches",
    "BilevelError",
    "Callback",
    "CheckReport",
    "ClassWeights",
    "Clip",
    "ClipNorm",
    "ClipValue",
    "ClusterWeights",
    "Comparison",
    "ConjugateGradient",
    "DenseSolve",
    "FiniteDifference",
    "FixedPoint",
    "ForwardMode",
    "GaussNewton",
    "Hypergradient",
    "HypergradientMethod",
    "Identity",
    "Implicit",
    "LearnedSettings",
    "LinearSolveReport",
    "LinearSolveWarning",
    "LinearSolver",
    "MetaWeightNet",
    "Neumann",
    "Nystrom",
    "OnlineReweighting",
    "Penalty",
    "Point",
    "Problem",
    "SampleWeights",
    "Seconds",
    "SoftLabels",
    "Solver",
    "StepInfo",
    "TorchoptRule",
    "Unrolled",
    "UpdateRule",
    "check",
    "compare",
    "errors",
    "fit",
    "from_torch",
    "hypergradient",
    "logging",
    "optim",
    "supported_optimizers",
]
