"""Fuzzing of the public constructors: any argument makes an object that works, or one of our own errors.

`ISTD_FUZZ_EXAMPLES` sets the cases of a test (12 by default, the same ones every time).
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import bilevel
from bilevel.errors import BilevelError, OptionError

_CASES = os.environ.get("ISTD_FUZZ_EXAMPLES")


def fuzz(share: float) -> settings:
    return settings(
        max_examples=round(int(_CASES or 12) * share),
        deadline=None,
        derandomize=_CASES is None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate),  # shrinking takes minutes; the blob repeats a failure
        print_blob=True,
    )


ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers(-3, 5)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(
        [
            10**400,
            [],
            {},
            (),
            "mean",
            "softmax",
            "adjoint",
            1.0,
            b"x",
            print,
            torch.tensor(1),
            torch.ones(2),
            nn.ReLU,
        ]
    )
)

_LABELS = torch.tensor([0, 1, 1, 0])
_MAKERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Unrolled": (
        bilevel.Unrolled,
        {"steps": 2, "truncate": 1, "mode": "adjoint", "trajectory": "memory", "products": "auto"},
    ),
    "ForwardMode": (bilevel.ForwardMode, {"steps": 2, "chunk_size": 1, "walked_back": 1}),
    "Implicit": (bilevel.Implicit, {"linear_solver": bilevel.ConjugateGradient()}),
    "ConjugateGradient": (
        bilevel.ConjugateGradient,
        {"max_iterations": 3, "tolerance": 1e-6, "damping": 0.0},
    ),
    "DenseSolve": (bilevel.DenseSolve, {"damping": 0.0, "max_size": 100, "tolerance": 1e-6}),
    "FixedPoint": (
        bilevel.FixedPoint,
        {"step_size": 0.1, "momentum": 0.0, "max_iterations": 3, "tolerance": 1e-6, "damping": 0.0},
    ),
    "Neumann": (bilevel.Neumann, {"step_size": 0.1, "max_iterations": 3, "tolerance": 1e-6, "damping": 0.0}),
    "Nystrom": (bilevel.Nystrom, {"rank": 2, "damping": 0.1, "seed": 0, "tolerance": 1e-6}),
    "FiniteDifference": (bilevel.FiniteDifference, {"step_size": 0.1, "eps": 0.01}),
    "GaussNewton": (bilevel.GaussNewton, {"eps": 1e-8}),
    "Identity": (bilevel.Identity, {"step_size": 1.0}),
    "SAMA": (bilevel.SAMA, {"eps": 0.01, "mixed": "exact"}),
    "Penalty": (bilevel.Penalty, {"gamma": 1.0, "steps": 1, "step_size": 0.1}),
    "ClipNorm": (bilevel.ClipNorm, {"max_norm": 1.0}),
    "ClipValue": (bilevel.ClipValue, {"value": 1.0}),
    "ClusterWeights": (
        bilevel.ClusterWeights,
        {"num_clusters": 2, "parameterization": "sigmoid", "normalize": "none", "init": 0.0},
    ),
    "SampleWeights": (
        bilevel.SampleWeights,
        {"num_samples": 4, "parameterization": "sigmoid", "normalize": "mean", "init": 0.0},
    ),
    "ClassWeights": (bilevel.ClassWeights, {"num_classes": 2, "parameterization": "softplus"}),
    "MetaWeightNet": (bilevel.MetaWeightNet, {"hidden": 3, "detach": True, "normalize": "none"}),
    "SoftLabels": (bilevel.SoftLabels, {"labels": _LABELS, "num_classes": 2, "confidence": 0.9}),
    "Batches": (bilevel.Batches, {"items": [1, 2], "weights": [0.5, 0.5]}),
}


def answer(action: Callable[[], Any]) -> Any:
    """What `action` answers, or None where it raises an error of ours; any other error goes through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return action()
        except BilevelError:
            return None


@st.composite
def arguments(draw: st.DrawFn, names: tuple[str, ...]) -> tuple[Callable[..., Any], dict[str, Any]]:
    make, good = _MAKERS[draw(st.sampled_from(names))]
    changed = draw(st.lists(st.sampled_from(sorted(good)), min_size=1, max_size=2, unique=True))
    return make, {**good, **{name: draw(ANYTHING) for name in changed}}


def _inner(model: nn.Linear, outer: bilevel.SampleWeights, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return (outer(torch.arange(len(y))) * (model(x)[:, 0] - y).square()).mean() + model.weight.square().sum()


def _outer(model: nn.Linear, outer: bilevel.SampleWeights, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return (model(x)[:, 0] - y).square().mean()


def _world() -> tuple[nn.Linear, bilevel.SampleWeights, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(2, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
    return model, bilevel.SampleWeights(4), (torch.randn(4, 2, generator=generator), torch.arange(4.0))


_METHODS = (
    *("Unrolled", "ForwardMode", "Implicit", "ConjugateGradient", "DenseSolve", "FixedPoint", "Neumann"),
    *("Nystrom", "FiniteDifference", "GaussNewton", "Identity", "SAMA", "Penalty"),
)


@fuzz(4)
@given(arguments(_METHODS))
def test_methods_answer_or_refuse(case: tuple[Callable[..., Any], dict[str, Any]]) -> None:
    make, given_arguments = case
    method = answer(lambda: make(**given_arguments))
    if method is None:
        return
    assert repr(method)
    if isinstance(method, bilevel.LinearSolver):
        method = bilevel.Implicit(method)
    model, weights, batch = _world()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    problem = bilevel.Problem(_inner, _outer, model, weights)
    found = answer(lambda: bilevel.hypergradient(problem, method, batch, batch, optimizer=sgd))
    if found is not None:
        assert set(found) == {"logits"}
        assert found["logits"].shape == (4,)


@fuzz(6)
@given(arguments(tuple(name for name in _MAKERS if name not in _METHODS)))
def test_modules_and_options_are_made_or_refused(case: tuple[Callable[..., Any], dict[str, Any]]) -> None:
    make, given_arguments = case
    made = answer(lambda: make(**given_arguments))
    if made is None:
        return
    assert repr(made)
    if isinstance(made, nn.Module):
        assert all(torch.isfinite(parameter).all() for parameter in made.parameters())


@fuzz(4)
@given(
    st.sampled_from([*sorted(name for name in _MAKERS if "Weight" in name), "SoftLabels"]),
    ANYTHING
    | st.sampled_from(
        [torch.tensor([0, 1]), torch.tensor([-1]), torch.tensor([9]), torch.tensor([0.5]), torch.zeros(2, 2)]
    ),
)
def test_modules_answer_or_refuse(name: str, batch: Any) -> None:
    make, good = _MAKERS[name]
    made = make(**good)
    found = answer(lambda: made(batch))
    assert found is None or torch.isfinite(found).all() or not torch.isfinite(batch).all()


_SOLVER_OPTIONS = (
    *("inner_loss", "outer_loss", "inner", "outer", "inner_optimizer", "outer_optimizer", "hypergradient"),
    *("inner_steps", "on_nonfinite", "unroll", "inner_start", "inner_clip", "outer_clip", "inner_scheduler"),
    *("outer_scheduler", "inner_micro_batch", "outer_micro_batch", "autocast", "device", "callbacks"),
)


@fuzz(3)
@given(
    st.lists(
        st.sampled_from(_SOLVER_OPTIONS),
        min_size=1,
        max_size=2,
        unique=True,
    ),
    st.data(),
)
def test_solvers_work_or_are_refused(names: list[str], data: st.DataObject) -> None:
    model, weights, batch = _world()
    options: dict[str, Any] = {
        "inner_loss": _inner,
        "outer_loss": _outer,
        "inner": model,
        "outer": weights,
        "inner_optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "outer_optimizer": torch.optim.SGD(weights.parameters(), lr=0.1),
        "hypergradient": bilevel.GaussNewton(),
    }
    options |= {name: data.draw(ANYTHING) for name in names}
    solver = answer(lambda: bilevel.Solver(**options))
    if solver is not None and not set(names) & {"callbacks", "inner_loss", "outer_loss", "inner", "outer"}:
        answer(lambda: solver.step(batch, batch))


# What the fuzzing found.


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", True, None, 10**400, torch.tensor(1.0)])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (bilevel.ConjugateGradient, "damping"),
        (bilevel.Neumann, "step_size"),
        (bilevel.FixedPoint, "step_size"),
        (bilevel.Nystrom, "damping"),
        (bilevel.GaussNewton, "eps"),
        (bilevel.Identity, "step_size"),
        (bilevel.SAMA, "eps"),
    ],
)
def test_numbers_are_finite_numbers(make: Callable[..., Any], name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=name):
        make(**{name: value})


@pytest.mark.parametrize("steps", [1.5, "2", True, None, 0, -1])
@pytest.mark.parametrize("make", [bilevel.Unrolled, bilevel.ForwardMode])
def test_steps_are_whole_numbers(make: Callable[..., Any], steps: Any) -> None:
    with pytest.raises(OptionError, match="steps"):
        make(steps=steps)


def test_a_start_that_the_parameters_cannot_hold_is_named() -> None:
    with pytest.raises(OptionError, match="init"):
        bilevel.SampleWeights(4, init=1e70)


def test_choices_and_indices_of_other_types_are_named() -> None:
    with pytest.raises(OptionError, match="parameterization"):
        bilevel.ClusterWeights(2, parameterization=["mean"])  # type: ignore[arg-type]
    with pytest.raises(BilevelError, match="not a tensor"):
        bilevel.ClusterWeights(2)([0, 1])
    with pytest.raises(BilevelError, match="losses are not a vector"):
        bilevel.MetaWeightNet()(0.5)
    with pytest.raises(BilevelError, match="weights do not fit"):
        bilevel.Batches([1, 2], weights=[math.nan, 1])
    model, weights, _ = _world()
    bad: list[dict[str, Any]] = [
        {"device": "no such device"},
        {"callbacks": 3},
        {"callbacks": ["log"]},
        {"callbacks": torch.tensor(1)},
    ]
    for options in bad:
        with pytest.raises(OptionError, match=next(iter(options))):
            bilevel.Solver(
                _inner,
                _outer,
                inner=model,
                outer=weights,
                inner_optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
                outer_optimizer=torch.optim.SGD(weights.parameters(), lr=0.1),
                hypergradient=bilevel.GaussNewton(),
                **options,
            )
