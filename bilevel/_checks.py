"""Options of the solver that make no sense, alone or together."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ._numbers import check_numbers
from .callbacks import Callback
from .errors import OptionError
from .hypergradients import HypergradientMethod
from .hypergradients._evaluate import refuse_learned_settings

_CHOICES = {
    "on_nonfinite": ("raise", "skip"),
    "unroll": ("look-ahead", "committed"),
    "inner_start": ("warm", "restart"),
}


def as_device(name: torch.device | str) -> torch.device:
    """The device of that name, or an `OptionError` where this machine has none."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise OptionError(
            "no device", where="device", found=repr(name), expected="such as 'cpu' or 'cuda:0'"
        ) from error
    return device


def as_callbacks(given: Iterable[Callback]) -> list[Callback]:
    """The callbacks in a list, or an `OptionError`."""
    try:
        found = list(given)
        good = all(map(callable, found))
    except TypeError:
        good = False
    if not good:
        raise OptionError(
            "not a sequence of functions",
            where="callbacks",
            found=type(given).__name__,
            expected="functions of (solver, info), such as [LogTo(...)]",
        )
    return found


def check_options(
    method: object,
    inner_optimizer: object,
    inner_steps: int,
    on_nonfinite: str,
    unroll: str,
    inner_start: str,
    autocast: torch.dtype | None,
) -> None:
    """Raise `OptionError`, or `OptimizerError` where the method cannot learn the optimiser's settings."""
    given = {"on_nonfinite": on_nonfinite, "unroll": unroll, "inner_start": inner_start}
    for name, value in given.items():
        if value not in _CHOICES[name]:
            expected = " or ".join(repr(choice) for choice in _CHOICES[name])
            raise OptionError("unknown choice", where=name, found=repr(value), expected=expected)
    check_numbers("Solver", whole={"inner_steps": inner_steps})
    if not isinstance(method, HypergradientMethod):
        raise OptionError(
            "not a hypergradient method",
            where="hypergradient",
            found=repr(method),
            expected="such as Unrolled(steps=5), Implicit(ConjugateGradient()) or GaussNewton()",
        )
    if autocast is not None and autocast not in (torch.bfloat16, torch.float16):
        raise OptionError(
            "not a type to cast to",
            where="autocast",
            found=autocast,
            expected="torch.bfloat16, torch.float16 or None",
        )
    refuse_learned_settings(method, inner_optimizer)
    steps = method.unrolled_steps
    if unroll == "committed" and steps is not None and steps != inner_steps:
        raise OptionError(
            "a committed unroll takes exactly the unrolled steps",
            where="unroll='committed'",
            found=f"inner_steps={inner_steps} and {type(method).__name__}(steps={steps})",
            expected=f"inner_steps={steps}",
        )
    if inner_start == "restart" and unroll == "look-ahead" and steps is None:
        raise OptionError(
            "this method looks at the live parameters, which have just been restarted",
            where="inner_start='restart'",
            found=f"{type(method).__name__} with unroll='look-ahead'",
            fix="use unroll='committed': it looks after the inner steps",
        )
