"""One writer to a folder at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import tempfile
from pathlib import Path
from typing import IO

from ..errors import CheckpointError, WriteError


class FolderLock:
    """Keeps every other process out of a folder for as long as this one lives.

    The kernel holds the lock (`flock` on the file `.lock`), so one of a dead process is none, whatever the
    file says and whichever machine wrote it; what it says is only for people. Some network disks cannot lock.
    There the file `.owner` names the process: another one on this machine is kept out by a lock on the local
    disk, so what a dead one left is known for that; one on another machine cannot be asked, and the user is.

    Args:
        root: the folder; made if it is not there.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: list[IO[str]] = []
        self._owner: Path | None = None

    def take(self) -> None:
        """Take the lock.

        Raises:
            CheckpointError: another process has it.
            WriteError: the folder cannot be written.
        """
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as undo:
                lock: IO[str] = undo.enter_context((self._root / ".lock").open("a+", encoding="utf-8"))
                if not self._lock(lock):
                    lock.close()
                    lock = undo.enter_context(self._local_file().open("a+", encoding="utf-8"))
                    if not self._lock(lock):
                        raise OSError("neither this disk nor that of temporary files can lock files")
                    self._claim()
                with contextlib.suppress(OSError):  # on a full disk the lock holds, though it says nothing
                    os.ftruncate(lock.fileno(), 0)
                    os.write(lock.fileno(), _me().encode())
                undo.pop_all()
        except OSError as error:
            raise WriteError(
                "the run folder cannot be used",
                where=self._root,
                found=error,
                expected="a folder that can be written",
                fix="choose another --out",
            ) from error
        self._held = [lock]

    def release(self) -> None:
        """Give the lock back."""
        if self._owner is not None:
            with contextlib.suppress(OSError):
                self._owner.unlink(missing_ok=True)
            self._owner = None
        while self._held:
            self._held.pop().close()

    def _lock(self, file: IO[str]) -> bool:
        """Lock a file; False if its disk cannot do that."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # the latter from some network disks
            file.seek(0)
            raise self._refusal(
                file.read().strip(), "wait for it, stop it, or choose another --out"
            ) from error
        except OSError:
            return False
        return True

    def _claim(self) -> None:
        """Put this process's name on the folder; only one process on this machine can be here."""
        owner = self._root / ".owner"
        if owner.exists():
            named = owner.read_text(encoding="utf-8", errors="replace").strip()
            if named.rpartition(" on ")[2] != socket.gethostname():
                raise self._refusal(
                    named, f"wait for it, or choose another --out; if it no longer runs, remove {owner}"
                )
            owner.unlink()
        # Exclusive: of two machines that come here at once, one fails.
        try:
            with owner.open("x", encoding="utf-8") as stream:
                stream.write(_me())
        except FileExistsError as error:
            raise self._refusal("", "wait for it, or choose another --out") from error
        self._owner = owner

    def _local_file(self) -> Path:
        """A file on the local disk that stands for the folder."""
        name = hashlib.sha256(os.fsencode(self._root.resolve())).hexdigest()[:32]
        return Path(tempfile.gettempdir()) / f"istd-{os.getuid()}-{name}.lock"

    def _refusal(self, owner: str, fix: str) -> CheckpointError:
        return CheckpointError(
            "another process is training in this folder",
            where=self._root,
            found=f"process {owner or 'unknown'}",
            fix=fix,
        )


def _me() -> str:
    return f"{os.getpid()} on {socket.gethostname()}"
