"""Paths that people type."""

from __future__ import annotations

from pathlib import Path

from .errors import DataError


def given_path(path: str | Path) -> Path:
    """A path as a person gives it, `~` replaced by the home folder; nothing need be there.

    Raises:
        DataError: a path that no file of this machine can have, one that may not be looked at, a loop of
            links, or the home folder of somebody unknown.
    """
    given = Path(path)
    try:
        given = given.expanduser()
        given.stat()
    except (FileNotFoundError, NotADirectoryError):
        return given
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError("this path cannot be used", where=given, found=error) from error
    return given
