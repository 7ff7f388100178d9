"""Ask a method for the hypergradient of a problem at its live parameters."""

from __future__ import annotations

from typing import Any

import torch

from .. import _rng
from ..batches import as_batches
from ..errors import OptimizerError
from ..optim import LearnedRule, LearnedSettings, as_rule
from ..problem import Problem
from ._base import HypergradientMethod, Point
from ._result import Hypergradient


def hypergradient(
    problem: Problem, method: HypergradientMethod, train: Any, val: Any, *, optimizer: object = None
) -> Hypergradient:
    """The hypergradient of a problem at its live parameters, changing nothing.

    Parameters, buffers (BatchNorm statistics), optimiser state, `.grad` fields and torch's random number
    generators are after the call as they were before; train and eval modes are honoured, not switched.
    Random numbers (dropout) are drawn as real training from here on would draw them. State that modules
    keep outside of parameters and buffers, and Python's or NumPy's generators, are not protected.

    Args:
        problem: the two losses and modules.
        method: how to differentiate.
        train: one batch of the inner loss, used at each unrolled step, or `Batches`, one a step.
        val: one batch of the outer loss, or `Batches`, over which it is averaged.
        optimizer: the inner optimiser, for methods that unroll it: a torch.optim optimiser that `from_torch`
            takes, a torchopt gradient transformation, or an `UpdateRule`.

    Returns:
        The hypergradient as computed; `check_finite` is the caller's to call.

    Raises:
        OptimizerError: the method needs the optimiser and there is none, or the optimiser's settings are
            learned, which needs a method that uses it.
        BilevelError: a subclass says what is wrong with a loss, a batch or the optimiser.
    """
    refuse_learned_settings(method, optimizer)
    inner = {name: p.detach() for name, p in problem.inner_parameters().items()}
    outer = {name: p.detach() for name, p in problem.outer_parameters().items()}
    rule = None
    if method.uses_optimizer:
        if optimizer is None:
            raise OptimizerError(
                "this method differentiates the inner optimiser's step",
                where=type(method).__name__,
                found="no optimiser",
                fix="pass optimizer=...",
            )
        rule = as_rule(optimizer, problem.inner_parameters())
    devices = problem.devices()
    point = Point(
        problem=problem,
        inner=inner,
        outer=outer,
        buffers=problem.buffers(),
        train=as_batches(train, "train"),
        val=as_batches(val, "val"),
        rule=rule,
        devices=devices,
        autocast=problem.autocast(),
    )
    problem.check_batches(point.train, point.val)
    with _rng.preserved(devices), torch.enable_grad(), point.autocast.backward():
        return method(point)


def refuse_learned_settings(method: HypergradientMethod, optimizer: object) -> None:
    """Raise `OptimizerError` if the optimiser's settings are learned and the method does not look at it."""
    if isinstance(optimizer, LearnedSettings | LearnedRule) and not method.uses_optimizer:
        raise OptimizerError(
            "only a method that differentiates the inner optimiser's step can learn its settings",
            where=f"hypergradient={type(method).__name__}",
            fix="use Unrolled(steps=...), or a plain optimiser with fixed settings",
        )
