"""Options of the solver that make no sense, alone or together."""

from __future__ import annotations

import torch

from .errors import OptionError
from .hypergradients import HypergradientMethod
from .hypergradients._evaluate import refuse_learned_settings

_CHOICES = {
    "on_nonfinite": ("raise", "skip"),
    "unroll": ("look-ahead", "committed"),
    "inner_start": ("warm", "restart"),
}


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
    if inner_steps < 1:
        raise OptionError("too few steps", where="inner_steps", found=inner_steps, expected="≥ 1")
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
