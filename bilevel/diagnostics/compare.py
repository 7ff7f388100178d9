"""How far each hypergradient method is from an exact one on the user's own problem, and what it costs."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._numbers import check_numbers
from ..errors import BatchError, BilevelError, LinearSolveWarning, OptionError
from ..hypergradients import Hypergradient, HypergradientMethod
from ..problem import Problem
from ..solver import Solver
from ._memory import peak_bytes
from ._target import Target
from .comparison import Comparison, Estimate, MethodResult

Methods = Mapping[str, HypergradientMethod] | Iterable[HypergradientMethod]


def compare(
    problem_or_solver: Problem | Solver,
    methods: Methods,
    *,
    reference: HypergradientMethod | str,
    batches: Iterable[tuple[Any, Any]],
    optimizer: object = None,
    repeats: int = 1,
) -> Comparison:
    """Measure hypergradient methods against an exact one, at the live parameters; changes nothing.

    Every method is called `1 + repeats` times per pair of batches: first with its memory watched, which also
    warms up, then timed. Warnings of linear solves are caught, because the table states what they say.

    A reference is exact only for its own question: `Unrolled(T)` for the optimiser's T steps, `Implicit` with
    a converged solve for the minimiser. Their difference is no error of either.

    Args:
        problem_or_solver: what to differentiate.
        methods: methods by name, or just methods, which are then named by their repr.
        reference: the exact method, or the name of one of `methods`.
        batches: pairs (train, val), each as `Solver.step` takes them.
        optimizer: the inner optimiser, if a `Problem` is given and a method unrolls.
        repeats: timed calls, of which the fastest counts.

    Returns:
        A `Comparison`: print it, plot it, or read its `results`. A method that raises a `BilevelError`, or
        for which a device has not enough memory, is a row that says so.

    Raises:
        OptionError: no method, a name that is not there, or `repeats` < 1.
        BatchError: `batches` holds no pair, or something that is no pair.
        BilevelError: the reference fails.
    """
    target = Target(problem_or_solver, optimizer)
    named = _named(methods)
    check_numbers("compare", whole={"repeats": repeats})
    if isinstance(reference, str):
        if reference not in named:
            raise OptionError(
                "no such method", where="reference", found=repr(reference), expected=", ".join(named)
            )
        reference_name, exact = reference, named[reference]
    else:
        reference_name, exact = _name(reference), target.method(reference)
    pairs = _pairs(batches)

    truths = []
    for train, val in pairs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LinearSolveWarning)
            truth = target(exact, train, val)
        truth.check_finite(target.problem)
        truths.append(truth)
    results = []
    for name, method in named.items():
        estimates: list[Estimate] = []
        failure = None
        try:
            for (train, val), truth in zip(pairs, truths, strict=True):
                estimates.append(_measure(target, method, train, val, truth, repeats))
        except (BilevelError, torch.OutOfMemoryError) as error:
            failure = f"{type(error).__name__}: {error}"
        results.append(MethodResult(name, method, tuple(estimates), failure))
    on_cuda = any(device.type == "cuda" for device in target.problem.devices())
    return Comparison(reference_name, tuple(results), "CUDA allocator" if on_cuda else "live CPU tensors")


def _measure(
    target: Target, method: HypergradientMethod, train: Any, val: Any, truth: Hypergradient, repeats: int
) -> Estimate:
    problem = target.problem
    devices = problem.devices()
    known: tuple[Tensor, ...] = (
        *problem.inner.parameters(),
        *problem.outer.parameters(),
        *problem.buffers().values(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LinearSolveWarning)
        found, peak = peak_bytes(lambda: target(method, train, val), devices, known)
        seconds = []
        for _ in range(repeats):
            _wait(devices)
            began = time.perf_counter()
            target(method, train, val)
            _wait(devices)
            seconds.append(time.perf_counter() - began)
    error, cosine = distance(found, truth)
    gradient = found.inner_gradient_norm
    return Estimate(
        relative_error=error,
        cosine=cosine,
        norm=float(flat(found).norm()),
        seconds=min(seconds),
        peak_bytes=peak,
        inner_gradient_norm=None if gradient is None else float(gradient),
        linear_solves=found.linear_solves,
        notes=found.notes,
    )


def flat(values: Mapping[str, Tensor]) -> Tensor:
    """All values as one vector in float64 on the CPU."""
    return torch.cat([value.detach().double().cpu().flatten() for value in values.values()])


def distance(found: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> tuple[float, float]:
    """‖found − truth‖ / ‖truth‖, and the cosine of the angle; NaN where a norm in a denominator is 0."""
    a, b = flat({name: found[name] for name in truth}), flat(truth)
    length, true_length = float(a.norm()), float(b.norm())
    error = float((a - b).norm()) / true_length if true_length else math.nan
    cosine = float(a @ b) / (length * true_length) if length * true_length else math.nan
    return error, cosine


def _wait(devices: Iterable[torch.device]) -> None:
    for device in devices:
        torch.accelerator.synchronize(device)


def _name(method: object) -> str:
    return repr(method)


def _named(methods: Methods) -> dict[str, HypergradientMethod]:
    if isinstance(methods, HypergradientMethod):
        methods = [methods]
    named = dict(methods) if isinstance(methods, Mapping) else {_name(method): method for method in methods}
    if not named:
        raise OptionError("there is no method", where="methods", expected="at least one")
    for name, method in named.items():
        if not isinstance(method, HypergradientMethod):
            raise OptionError(
                "not a hypergradient method", where=f"methods[{name!r}]", found=type(method).__name__
            )
    return named


def _pairs(batches: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    pairs = list(batches)
    if not pairs or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise BatchError(
            "not a sequence of pairs",
            where="batches",
            found=f"{len(pairs)} × {type(pairs[0]).__name__}" if pairs else "nothing",
            expected="at least one (train, val)",
            fix="write batches=[(train_batch, val_batch)]",
        )
    return [(train, val) for train, val in pairs]
