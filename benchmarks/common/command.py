"""The call of a benchmark as it can be shown: without the paths of the machine it ran on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

STAND_INS = {"--data": "DATA", "--out": "OUT", "--reference": "REFERENCE"}


def shown_command(
    script: str, arguments: Sequence[str], stand_ins: Mapping[str, str] = STAND_INS, threads: int = 0
) -> str:
    """A line for a POSIX shell.

    Args:
        script: the file in benchmarks/.
        arguments: what followed it.
        stand_ins: option → what is shown instead of its value, given as `--data X` or `--data=X`.
        threads: that were set by the environment; 0 for benchmarks that set them themselves.
    """
    words: list[str] = []
    for word in arguments:
        option, equals, _ = word.partition("=")
        if equals and option in stand_ins:
            words.append(f"{option}={stand_ins[option]}")
        else:
            words.append(stand_ins[words[-1]] if words and words[-1] in stand_ins else word)
    prefix = f"OMP_NUM_THREADS={threads} " if threads else ""
    return prefix + shlex.join(["python", f"benchmarks/{script}", *words])
