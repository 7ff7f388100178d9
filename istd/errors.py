"""Errors that a user of `istd` can act on: what is wrong, what was found and expected, how to mend it."""

from __future__ import annotations

from pathlib import Path


class IstdError(Exception):
    """Base of every error that `istd` raises on purpose.

    Args:
        problem: one sentence that says what is wrong.
        where: the file, folder or option it concerns, if there is one.
        found: what was met.
        expected: what would have been right.
        fix: what the user can do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: str | Path | None = None,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.problem = problem
        self.where = None if where is None else str(where)
        self.found = found
        self.expected = expected
        self.fix = fix
        parts = [problem if where is None else f"{_printable(str(where), 300)}: {problem}"]
        if found is not None:
            parts.append(f"  found:    {found}")
        if expected is not None:
            parts.append(f"  expected: {expected}")
        if fix is not None:
            parts.append(f"  mend:     {fix}")
        super().__init__("\n".join(map(_printable, parts)))


def _printable(text: str, longest: int = 1000) -> str:
    """Text that any terminal and file takes: file names may hold bytes that are no UTF-8, or be endless."""
    shown = text if len(text) <= longest else f"{text[:longest]}…"
    return shown.encode("utf-8", "backslashreplace").decode("utf-8")


class DataError(IstdError):
    """An image, mask, point, split or dataset folder that cannot be used as it is."""


class LabelError(IstdError):
    """A label, or a label store, that is missing, damaged or of other images."""


class ModelError(IstdError):
    """A model that cannot be built or whose weights cannot be loaded."""


class CheckpointError(IstdError):
    """A checkpoint or run folder that is damaged, incomplete or of another configuration."""


class ConfigError(IstdError):
    """An option, or a combination of options, that makes no sense."""


class ProcessError(IstdError):
    """The processes of a run have lost each other, or have come to different weights."""


class WriteError(IstdError):
    """A file that could not be written; the previous one, if any, is whole."""
