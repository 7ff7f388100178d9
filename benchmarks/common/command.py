"""The command line of a benchmark: its options, and the call as it can be shown and repeated."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from istd._provenance import provenance

from .machine import load

STAND_INS = {"--data": "DATA", "--out": "OUT", "--reference": "REFERENCE"}


def new_parser(script: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser whose help shows both texts as they are broken into lines.

    Args:
        script: the file in benchmarks/.
        description: what is measured, above the options.
        epilog: what stands below them.
    """
    return argparse.ArgumentParser(
        prog=script,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def origin(
    script: str, arguments: Sequence[str] | None, device: torch.device | str = "cpu", threads: int = 0
) -> dict[str, Any]:
    """What every file of results says of where it comes from: `provenance`, and the machine's load now.

    Args:
        script: the file in benchmarks/.
        arguments: what followed it; None for those of this process.
        device: where it runs.
        threads: see `shown_command`.
    """
    typed = sys.argv[1:] if arguments is None else arguments
    return {**provenance(shown_command(script, typed, threads=threads), device), "load": load()}


def shown_command(
    script: str, arguments: Sequence[str], stand_ins: Mapping[str, str] = STAND_INS, threads: int = 0
) -> str:
    """A line for a POSIX shell, without the paths of the machine it ran on.

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
