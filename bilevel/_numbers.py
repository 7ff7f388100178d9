"""Numbers that users pass as options: of the right kind and finite, or an error that names the option."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real

from .errors import OptionError

_NONE: Mapping[str, object] = {}


def check_numbers(
    where: str, *, whole: Mapping[str, object] = _NONE, real: Mapping[str, object] = _NONE, least: int = 1
) -> None:
    """Check options before they are compared: NaN is smaller than nothing, and text than no number.

    Args:
        where: whose options they are.
        whole: name → value; whole numbers of at least `least`.
        real: name → value; finite numbers of any size.
        least: the smallest whole number.

    Raises:
        OptionError: a value is something else, True and False included.
    """
    for name, value in whole.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise OptionError(
                "not a whole number", where=f"{where}({name})", found=_shown(value), expected=f"≥ {least}"
            )
        if not least <= int(value) < 2**63:
            raise OptionError(
                "out of range", where=f"{where}({name})", found=_shown(value), expected=f"≥ {least}"
            )
    for name, value in real.items():
        if not _is_finite(value):
            raise OptionError("not a finite number", where=f"{where}({name})", found=_shown(value))


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole numbers of more than 4300 digits
        return type(value).__name__
    return text if len(text) <= 80 else f"{text[:80]}…"
