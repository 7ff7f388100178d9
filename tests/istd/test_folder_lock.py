"""One run to a folder at a time, whatever became of the last one."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from istd.engine.folder_lock import FolderLock
from istd.errors import CheckpointError, WriteError

HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "a+")
fcntl.flock(lock, fcntl.LOCK_EX)
lock.write("4242 on elsewhere")
lock.flush()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["flock", "no-flock"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a disk that can lock files, or on one that cannot."""
    root = tmp_path / "run"
    if request.param == "no-flock":
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        flock = fcntl.flock

        def refuse(file, operation):
            if Path(file.name).parent == root:
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
            return flock(file, operation)

        monkeypatch.setattr(fcntl, "flock", refuse)
    return root


def test_a_second_one_is_refused_until_the_first_is_done(disk: Path) -> None:
    first, second = FolderLock(disk), FolderLock(disk)
    first.take()
    with pytest.raises(CheckpointError, match=rf"{os.getpid()} on {socket.gethostname()}(.|\n)*--out"):
        second.take()
    first.release()
    second.take()
    with pytest.raises(CheckpointError, match=str(os.getpid())):
        first.take()
    second.release()


def test_of_starts_at_the_same_time_one_wins(disk: Path) -> None:
    for _ in range(20):
        locks = [FolderLock(disk) for _ in range(4)]
        together, taken, refused = threading.Barrier(len(locks)), [], []

        def start(lock, together=together, taken=taken, refused=refused):
            together.wait()
            try:
                lock.take()
                taken.append(lock)
            except CheckpointError as error:
                refused.append(error)

        threads = [threading.Thread(target=start, args=(lock,)) for lock in locks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(taken), len(refused)) == (1, 3)
        taken[0].release()


def test_the_lock_of_a_killed_process_is_none_whatever_it_says(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "held"
    lock = FolderLock(tmp_path)
    with pytest.raises(CheckpointError, match="4242 on elsewhere"):
        lock.take()
    holder.send_signal(signal.SIGKILL)
    holder.communicate(timeout=60)
    assert (tmp_path / ".lock").read_text() == "4242 on elsewhere"
    lock.take()
    assert (tmp_path / ".lock").read_text() == f"{os.getpid()} on {socket.gethostname()}"
    lock.release()


@pytest.mark.parametrize("disk", ["no-flock"], indirect=True)
def test_without_locks_a_name_left_here_is_known_for_dead_and_another_machine_is_asked_for(
    disk: Path,
) -> None:
    disk.mkdir()
    owner = disk / ".owner"
    owner.write_text(f"4242 on {socket.gethostname()}")
    lock = FolderLock(disk)
    lock.take()
    assert owner.read_text() == f"{os.getpid()} on {socket.gethostname()}"
    lock.release()
    assert not owner.exists()
    owner.write_text("4242 on elsewhere")
    with pytest.raises(CheckpointError, match=r"4242 on elsewhere(.|\n)*remove .*\.owner"):
        lock.take()
    owner.unlink()
    lock.take()
    lock.release()


def test_a_full_disk_does_not_keep_a_run_out_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process says of itself in the lock is for people."""

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lock = FolderLock(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        lock.take()
    with pytest.raises(CheckpointError):
        FolderLock(tmp_path).take()
    lock.release()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="file"):
        FolderLock(tmp_path / "file" / "run").take()
