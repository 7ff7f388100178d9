"""Settings as they are typed and as they must be: by the annotation of their field."""

from __future__ import annotations

import types
import typing
from typing import Any, Literal, get_args

from ..errors import ConfigError

_OPTIONS = frozenset(
    ("data", "method", "backbone", "vfm", "hypergradient", "epochs", "crop", "batch_size", "seed", "device")
)
"""Settings that have an option of their own in `istd train`; all others are given to `--set`."""


def shown(name: str) -> str:
    """How a person types the name of a setting."""
    return f"--{name.replace('_', '-')}" if name in _OPTIONS else f"--set {name}"


def is_optional(hint: Any) -> bool:
    """Whether None is allowed."""
    return type(None) in get_args(hint)


def literal_choices(hint: Any) -> tuple[Any, ...]:
    """The values of a `Literal`; empty where a field is open."""
    if typing.get_origin(hint) is Literal:
        return get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(choice for part in get_args(hint) for choice in literal_choices(part))
    return ()


def parse(text: str, hint: Any) -> Any:
    """A value from its text: numbers, true and false, none where allowed, text; `check_type` judges it."""
    word = text.strip().lower()
    if word in ("none", "null") and is_optional(hint):
        return None
    if _is_tuple(hint):
        try:
            return tuple(float(part) for part in text.split(",") if part.strip())
        except ValueError:
            return text
    kinds = get_args(hint) or (hint,)
    if bool in kinds and word in ("true", "false", "yes", "no", "1", "0"):
        return word in ("true", "yes", "1")
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def check_type(name: str, value: Any, hint: Any, *, positive: bool = False, below: float = 2**31) -> None:
    """Refuse a value of another type than the field's, and numbers that make no sense anywhere.

    Raises:
        ConfigError: it is of the wrong type, negative, 0 where it must be positive, or not less than `below`.
    """
    if _is_tuple(hint):
        if not isinstance(value, tuple) or not all(
            isinstance(part, int | float) and 0 <= part <= 1 for part in value
        ):
            raise ConfigError(
                f"{shown(name)} is a list of fractions", found=repr(value), expected="such as 0.5,0.75"
            )
        return
    kinds = get_args(hint) or (hint,)
    if not (type(value) in kinds or (type(value) is int and float in kinds)):
        expected = " or ".join("none" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ConfigError(f"{shown(name)} is of the wrong type", found=repr(value), expected=expected)
    number = isinstance(value, int | float) and not isinstance(value, bool) and name != "seed"
    # Compared, not math.isfinite: whole numbers may be too large for a float.
    if number and (not 0 <= value < below or (positive and value == 0)):
        raise ConfigError(
            f"{shown(name)} is out of range",
            found=str(value)[:40],
            expected="a positive number" if positive else "a number that is not negative",
        )


def _is_tuple(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple
