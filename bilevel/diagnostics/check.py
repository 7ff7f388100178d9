"""One hypergradient method against central differences, as `torch.autograd.gradcheck` does for gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._numbers import check_numbers
from ..errors import DoubleBackwardError, OptionError
from ..hypergradients import SAMA, FiniteDifference, Hypergradient, HypergradientMethod, Identity
from ..problem import Problem
from ..solver import Solver
from ._steps import DescentStep, InnerSteps, OptimizerStep
from ._target import Target
from ._truth import AfterSteps, AtMinimum, Truth
from .obstacles import find_obstacles
from .report import CheckReport, Direction


def check(
    problem_or_solver: Problem | Solver,
    method: HypergradientMethod | None,
    train: Any,
    val: Any,
    *,
    optimizer: object = None,
    steps: int | None = None,
    directions: int = 3,
    tolerance: float | None = None,
    seed: int = 0,
) -> CheckReport:
    """Compare a hypergradient with differences of the outer loss itself, along a few directions of λ.

    First a dry run looks for operators without a second derivative. Then F is evaluated at λ ± h·d and
    λ ± 2h·d for the direction d of the hypergradient and for random ones, and the slope (of fourth order)
    is compared with ⟨hypergradient, d⟩. For a method that unrolls, F is taken after really making its inner
    steps. For one that estimates the hypergradient of one step it is taken after that step: of the inner
    optimiser for `SAMA`, of gradient descent with their `step_size` for `FiniteDifference` and `Identity`.
    For the others it is taken at the minimum of the inner loss, found by Newton steps from the live
    parameters (with the inner gradient held at its live value, if that is not zero).

    In float32 differences are good to a few per cent only: for a strict check make modules and batches
    float64. Nothing is changed; the live λ are moved and put back bit for bit.

    Args:
        problem_or_solver: what to differentiate.
        method: the method to check; None for the solver's.
        train: one batch of the inner loss, or `Batches`.
        val: one batch of the outer loss, or `Batches`.
        optimizer: the inner optimiser, if a `Problem` is given and `method` unrolls.
        steps: judge by F after so many inner steps, whatever the method; None to choose by the method.
        directions: random directions, beside that of the hypergradient.
        tolerance: the relative error that still passes; by default 1e-5 in float64 and 0.05 below.
        seed: of the random directions.

    Returns:
        A `CheckReport`: print it, or read `passed`.

    Raises:
        OptionError: an argument is out of range.
        BilevelError: the hypergradient fails for another reason than a missing second derivative.
    """
    target = Target(problem_or_solver, optimizer)
    chosen = target.method(method)
    check_numbers("check", whole={"directions": directions}, least=0)
    check_numbers(
        "check",
        whole={} if steps is None else {"steps": steps},
        real={} if tolerance is None else {"tolerance": tolerance},
    )
    if tolerance is not None and tolerance <= 0:
        raise OptionError(
            "out of range",
            where="check(tolerance)",
            found=tolerance,
            expected="> 0",
        )
    obstacles = find_obstacles(target.problem, train)
    precise = all(p.dtype == torch.float64 for p in _parameters(target.problem))
    limit = tolerance if tolerance is not None else 1e-5 if precise else 0.05
    name = repr(chosen)
    try:
        found = target(chosen, train, val)
    except DoubleBackwardError as error:
        return CheckReport(name, "", (), limit, obstacles, (), None, str(error))
    found.check_finite(target.problem)
    truth = _truth(target, chosen, steps, train, val)
    measured: tuple[Direction, ...] = ()
    unmeasured = None
    try:
        measured = _measure(found, truth, directions, seed, 1e-3 if precise else 2e-2)
    except DoubleBackwardError as error:
        # A first-order method runs, but the minimum is found by second derivatives.
        unmeasured = str(error)
    norm = truth.gradient_norm if isinstance(truth, AtMinimum) else None
    return CheckReport(
        name,
        truth.meaning,
        measured,
        limit,
        obstacles,
        found.linear_solves,
        norm,
        unmeasured=unmeasured,
        notes=found.notes,
    )


def _parameters(problem: Problem) -> list[Tensor]:
    return [*problem.inner_parameters().values(), *problem.outer_parameters().values()]


def _truth(target: Target, method: HypergradientMethod, steps: int | None, train: Any, val: Any) -> Truth:
    count = method.unrolled_steps if steps is None else steps
    if count is not None:
        return AfterSteps(target, InnerSteps(count), train, val)
    if isinstance(method, FiniteDifference | Identity):
        return AfterSteps(target, DescentStep(method.step_size), train, val)
    if isinstance(method, SAMA):
        return AfterSteps(target, OptimizerStep(), train, val)
    return AtMinimum(target, train, val)


def _measure(
    found: Hypergradient, truth: Truth, count: int, seed: int, width: float
) -> tuple[Direction, ...]:
    generator = torch.Generator("cpu").manual_seed(seed)
    size = math.sqrt(sum(float(value.double().square().sum()) for value in found.values()))
    chosen = [
        {
            name: torch.randn(value.shape, dtype=torch.float64, generator=generator, device="cpu").to(value)
            for name, value in found.items()
        }
        for _ in range(count)
    ]
    named = [(f"random {index + 1}", one) for index, one in enumerate(chosen)]
    if size > 0:
        named.insert(0, ("along the hypergradient", dict(found)))
    measured = []
    for name, one in named:
        length = math.sqrt(sum(float(value.double().square().sum()) for value in one.values()))
        unit = {key: value / length for key, value in one.items()}
        slope = sum(float((found[key].double() * unit[key].double()).sum()) for key in found)
        values = [
            truth({key: value * (factor * width) for key, value in unit.items()}) for factor in (-2, -1, 1, 2)
        ]
        if any(value is None or not math.isfinite(value) for value in values):
            measured.append(Direction(name, slope, math.nan, math.nan))
            continue
        f = [value for value in values if value is not None]
        second = (f[2] - f[1]) / (2 * width)
        fourth = (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * width)
        dtype = next(iter(found.values())).dtype
        rounding = 4 * torch.finfo(dtype).eps * max(abs(value) for value in f) / width
        measured.append(Direction(name, slope, fourth, abs(fourth - second) + rounding))
    return tuple(measured)
