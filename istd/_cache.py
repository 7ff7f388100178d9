"""Folders of files that can be made again: what was not used for longest goes when room is needed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path


def touch(path: Path) -> None:
    """Note that a file is used now; a file that cannot be touched keeps its time."""
    with contextlib.suppress(OSError):
        os.utime(path)


def evict(files: Iterable[Path], surplus: int) -> None:
    """Remove files, those not used for longest first, until `surplus` bytes are gone or no file is left.

    A file that vanishes meanwhile, or that cannot be removed, is passed over.
    """
    known = []
    for path in files:
        with contextlib.suppress(OSError):
            status = path.stat()
            known.append((status.st_mtime_ns, path, status.st_size))
    for _, path, size in sorted(known):
        if surplus <= 0:
            return
        with contextlib.suppress(OSError):
            path.unlink()
            surplus -= size
