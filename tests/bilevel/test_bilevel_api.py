"""The public names and signatures: changing them is a decision, not an accident."""

from __future__ import annotations

import inspect
import subprocess
import sys

import bilevel
from bilevel import errors, hypergradients, linear_solvers, optim, reweighting


def test_public_names() -> None:
    assert sorted(bilevel.__all__) == [
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
        "SAMA",
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
    for package in (bilevel, hypergradients, linear_solvers, optim, reweighting):
        for name in package.__all__:
            assert hasattr(package, name), (package.__name__, name)


def arguments(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_signatures() -> None:
    assert arguments(bilevel.Problem) == ["inner_loss", "outer_loss", "inner", "outer"]
    assert arguments(bilevel.Solver) == [
        "inner_loss",
        "outer_loss",
        "inner",
        "outer",
        "inner_optimizer",
        "outer_optimizer",
        "hypergradient",
        "inner_steps",
        "on_nonfinite",
        "unroll",
        "inner_start",
        "inner_clip",
        "outer_clip",
        "inner_scheduler",
        "outer_scheduler",
        "inner_micro_batch",
        "outer_micro_batch",
        "autocast",
        "device",
        "process_group",
        "callbacks",
    ]
    assert arguments(bilevel.Solver.hypergradient) == ["self", "train", "val"]
    assert arguments(bilevel.Solver.step) == ["self", "train", "val"]
    assert arguments(bilevel.Solver.outer_step) == ["self", "train", "val"]
    assert arguments(bilevel.Solver.inner_step) == ["self", "train"]
    assert arguments(bilevel.hypergradient) == ["problem", "method", "train", "val", "optimizer"]
    assert arguments(bilevel.from_torch) == ["optimizer", "parameters", "copy"]
    assert arguments(bilevel.Unrolled) == ["steps", "truncate", "mode", "trajectory", "products"]
    assert arguments(bilevel.ForwardMode) == ["steps", "chunk_size", "walked_back"]
    assert arguments(bilevel.Implicit) == ["linear_solver"]
    assert arguments(bilevel.GaussNewton) == ["eps"]
    assert arguments(bilevel.Penalty) == ["gamma", "steps", "step_size"]
    assert arguments(bilevel.SAMA) == ["mixed", "eps"]
    assert arguments(bilevel.Identity) == ["step_size"]
    assert arguments(bilevel.FiniteDifference) == ["step_size", "eps"]
    assert arguments(bilevel.Nystrom) == ["rank", "damping", "seed", "tolerance"]
    assert arguments(bilevel.FixedPoint) == [
        "step_size",
        "momentum",
        "max_iterations",
        "tolerance",
        "damping",
    ]
    assert arguments(bilevel.DenseSolve) == ["damping", "max_size", "tolerance"]
    assert arguments(bilevel.ConjugateGradient) == ["max_iterations", "tolerance", "damping"]
    assert arguments(bilevel.Neumann) == ["step_size", "max_iterations", "tolerance", "damping"]
    assert arguments(bilevel.ClusterWeights) == ["num_clusters", "parameterization", "normalize", "init"]
    assert arguments(bilevel.check) == [
        "problem_or_solver",
        "method",
        "train",
        "val",
        "optimizer",
        "steps",
        "directions",
        "tolerance",
        "seed",
    ]
    assert arguments(bilevel.compare) == [
        "problem_or_solver",
        "methods",
        "reference",
        "batches",
        "optimizer",
        "repeats",
    ]
    assert arguments(bilevel.ClassWeights) == ["num_classes", "parameterization", "normalize", "init"]
    assert arguments(bilevel.MetaWeightNet) == ["hidden", "detach", "normalize"]
    assert arguments(bilevel.SoftLabels) == ["labels", "num_classes", "confidence"]
    assert arguments(bilevel.OnlineReweighting) == [
        "sample_loss",
        "outer_loss",
        "model",
        "process_group",
    ]
    assert arguments(bilevel.SampleWeights) == ["num_samples", "parameterization", "normalize", "init"]


def test_every_error_is_a_bilevel_error() -> None:
    found = [
        value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)
    ]
    named = [value for value in found if not issubclass(value, Warning)]
    assert len(named) > 10
    assert all(issubclass(value, bilevel.BilevelError) for value in named)


def test_everything_public_is_documented() -> None:
    for name in bilevel.__all__:
        assert inspect.getdoc(getattr(bilevel, name)), name


def test_import_needs_nothing_of_the_other_package() -> None:
    code = (
        "import sys, bilevel; print([n for n in sys.modules if n.split('.')[0] in ('istd', 'timm', 'h5py')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
