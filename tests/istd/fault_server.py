"""Commands of `istd` in processes that meet a fault: killed, or without a disk, at a chosen moment.

Run as a script this is a server: it loads the program once and forks a process for each command, so that a
test can afford hundreds of them. The tiny network `speck` is among its backbones. `FaultServer` is its
client; the fixture `server` has one running.

A moment is the n-th act on files below one folder: opening one to write, making a folder, flushing, renaming
(Python's audit events, raised before the act). It is the same moment on every machine.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Fault:
    """What goes wrong below `root`, and when.

    Attributes:
        root: only acts on files below it count.
        at: the number of the act, from 0; -1: none.
        kind: "kill", or the name of an error, such as "ENOSPC", which that act and all later ones meet.
        limit: bytes above which no file grows (EFBIG, whoever writes it); -1: no limit.
    """

    root: str
    at: int = -1
    kind: str = "kill"
    limit: int = -1


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: its exit code; minus the signal's number if a signal ended it.
        output: what it printed.
        acts: how many acts on files it did, as far as it came.
    """

    code: int
    output: str
    acts: int


class FaultServer:
    """A running server; commands go one after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
        )
        assert self._read() == "ready"

    def start(self, arguments: Sequence[object], fault: Fault, **environment: str) -> int:
        """Begin `istd ARGUMENTS`; its process."""
        order = {
            "arguments": [str(one) for one in arguments],
            "environment": environment,
            "fault": vars(fault),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._read())

    def wait(self) -> Outcome:
        """The end of the command that runs."""
        return Outcome(*json.loads(self._read()))

    def run(self, arguments: Sequence[object], fault: Fault, **environment: str) -> Outcome:
        """Run `istd ARGUMENTS` to its end."""
        self.start(arguments, fault, **environment)
        return self.wait()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the fault server died"
        return line.strip()


def _serve() -> None:
    # What the commands need is loaded here, once; a forked process has it.
    import cv2
    import matplotlib.figure  # noqa: F401
    import torch
    from training_processes import speck

    import istd.cli.app
    import istd.doctor
    import istd.engine
    import istd.export
    import istd.report  # noqa: F401
    from istd.models import create_vfm, register_model

    register_model(speck)
    create_vfm("random:test_vit")
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    print("ready", flush=True)
    acts = mmap.mmap(-1, 8)  # shared with the command
    for line in sys.stdin:
        acts[:] = bytes(8)
        # A pipe, because limits of files do not bind it.
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reading)
            _command(json.loads(line), writing, acts)
        os.close(writing)
        print(process, flush=True)
        with os.fdopen(reading, errors="replace") as stream:
            output = stream.read()
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print(json.dumps([code, output, int.from_bytes(acts[:], "little")]), flush=True)


def _command(order: Mapping[str, Any], output: int, acts: mmap.mmap) -> None:
    """Run one command in this process, which it ends."""
    code = 70
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        # The fork shares the server's orders, which it must not read.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(order["environment"], COLUMNS="200")
        _install(Fault(**order["fault"]), acts)
        from istd.cli import app

        sys.argv = ["istd", *order["arguments"]]
        code = app.run()
    except BaseException:  # what the program let through is the fault that tests look for
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _install(fault: Fault, acts: mmap.mmap) -> None:
    inside = f"{os.path.realpath(fault.root)}/"

    def act() -> None:
        now = int.from_bytes(acts[:], "little")
        acts[:] = (now + 1).to_bytes(8, "little")
        if fault.at < 0 or now < fault.at:
            return
        if fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, fault.kind)
        raise OSError(number, os.strerror(number))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.mkdir", "os.rename", "os.link", "os.truncate"):
            return
        path = arguments[0]
        if not isinstance(path, str | os.PathLike):
            return
        if not os.path.realpath(os.fspath(path)).startswith(inside):
            return
        if event == "open" and not (
            arguments[2] & _WRITING if arguments[2] is not None else set(str(arguments[1])) & set("wax+")
        ):
            return
        act()

    flush = os.fsync

    def fsync(descriptor: int) -> None:
        act()
        flush(descriptor)

    os.fsync = fsync  # type: ignore[assignment]
    sys.addaudithook(hook)
    if fault.limit >= 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.limit, fault.limit))


if __name__ == "__main__":
    _serve()
