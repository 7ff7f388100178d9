"""Files that are either written whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import WriteError

_SEAL = "sha256"


@contextlib.contextmanager
def atomic_path(target: str | Path, *, previous: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `target`; rename it to `target` if the block ends well.

    The temporary file keeps the target's suffix, because some writers choose a format by it. On any
    exception it is removed and `target` stays as it was; a failure of the disk becomes `WriteError`.

    Args:
        target: the file to write.
        previous: if given, the file that `target` was until now is kept under this name. A process that dies
            between the two renames leaves `previous` alone.
    """
    target = Path(target)
    partial: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(f".partial{target.suffix}", f".{_start(target)}.", target.parent)
        os.close(handle)
        partial = Path(name)
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; a finished one gets the permissions any new file would have.
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)
        if previous is not None and target.exists():
            target.replace(previous)
        partial.replace(target)
    except OSError as error:
        raise WriteError(
            "the file could not be written",
            where=target,
            found=error,
            expected="a writable folder with enough free space",
            fix="free some space or choose another --out folder; the previous file, if any, is untouched",
        ) from error
    finally:
        if partial is not None:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; it takes the name `target` if the block ends well.

    If `target` is a folder with something in it, the files that were made are moved into it one by one. On
    any exception in the block the temporary folder is removed and `target` stays as it was; a failure of the
    disk becomes `WriteError`.
    """
    target = Path(target)
    partial: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(".partial", f".{target.name}.", target.parent))
        yield partial
        if target.is_dir() and any(target.iterdir()):
            for made in sorted(partial.iterdir()):
                made.replace(target / made.name)
            return
        partial.chmod(0o755)
        if target.is_dir():
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        raise WriteError(
            "the folder could not be written",
            where=target,
            found=error,
            fix="free some space, or choose another folder",
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _start(target: Path) -> str:
    """The stem of a file, short enough to leave room for more: names end at 255 bytes."""
    return os.fsdecode(os.fsencode(target.stem)[:200])


def partial_paths(target: str | Path) -> list[Path]:
    """What killed processes left beside `target` of files that `atomic_path` was writing."""
    target = Path(target)
    pattern = f".{glob.escape(_start(target))}.*.partial{glob.escape(target.suffix)}"
    return sorted(target.parent.glob(pattern))


def remove_stale_partials(folder: Path, seconds: float = 3600.0) -> None:
    """Remove what killed processes left in a shared folder; what was touched of late may be being written."""
    for path in folder.glob(".*.partial*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > seconds:
                path.unlink()


def write_bytes(target: str | Path, data: bytes) -> None:
    """Write `data` to `target` whole or not at all."""
    with atomic_path(target) as partial, partial.open("wb") as stream:
        stream.write(data)
        stream.flush()


def write_text(target: str | Path, text: str) -> None:
    """Write `text` (UTF-8) to `target` whole or not at all; what is no Unicode in file names is escaped."""
    write_bytes(target, text.encode("utf-8", "backslashreplace"))


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """`value` with a checksum of itself under "sha256"."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return {**value, _SEAL: hashlib.sha256(text.encode()).hexdigest()}


def is_whole(value: dict[str, Any]) -> bool:
    """Whether `value`, as read from a file, is what `sealed` gave; True of what has no checksum."""
    content = {key: item for key, item in value.items() if key != _SEAL}
    return _SEAL not in value or sealed(content) == value


def write_json(target: str | Path, value: Any) -> None:
    """Write `value` as indented JSON to `target` whole or not at all."""
    write_text(target, json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n")
