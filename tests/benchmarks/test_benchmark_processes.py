"""Processes of the benchmarks end with the one that started them, whenever that is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from common.interrupts import Interrupts
from common.processes import worker_environment
from detection import pool as pool_module
from detection.cells import Base, Cell, Recipe
from detection.pool import Limits, Pool
from detection.presets import PRESETS
from detection.progress import Bars
from detection.store import Store
from rich.console import Console

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

_WORKER = "from common.processes import end_with_parent as end; end(); print('up', flush=True); input()"


def _is_running(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _gone(number: int) -> bool:
    until = time.monotonic() + 30
    while _is_running(number) and time.monotonic() < until:
        time.sleep(0.02)
    return not _is_running(number)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_a_worker_ends_with_its_driver() -> None:
    # The driver starts a worker that waits for input, says its number, and is killed.
    driver = (
        "import subprocess, sys, time; from common.processes import worker_environment as environment\n"
        f"child = subprocess.Popen([sys.executable, '-c', {_WORKER!r}], env=environment(), "
        "stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)\n"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", driver], env=worker_environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    assert _is_running(worker)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert _gone(worker)

    # One whose driver was gone before it could ask ends by itself.
    late = {**worker_environment(), "ISTD_BENCHMARK_DRIVER": str(process.pid)}
    done = subprocess.run(
        [sys.executable, "-c", _WORKER], env=late, capture_output=True, input=b"\n", check=False
    )
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, b"")


def test_sigterm_takes_the_child_along() -> None:
    driver = (
        "import subprocess, sys, tempfile; from common.interrupts import sigterm_as_exit\n"
        "with sigterm_as_exit(), tempfile.TemporaryDirectory() as folder:\n"
        "    print(folder, flush=True)\n"
        "    subprocess.run([sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); "
        "time.sleep(60)'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", driver], env=worker_environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    folder, worker = Path(process.stdout.readline().strip()), int(process.stdout.readline())
    assert folder.exists()
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    process.stdout.close()
    assert _gone(worker)
    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_worker_is_started_loses_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*arguments, **options))
        os.kill(os.getpid(), number)
        time.sleep(0.05)  # handlers run between two steps of the interpreter
        return started[-1]

    monkeypatch.setattr(pool_module.subprocess, "Popen", start)
    base = Base.of("smoke", PRESETS["smoke"], str(tmp_path / "none.h5"))
    recipe = Recipe("mlclnet", "full", 0, {})
    cell = Cell(recipe, recipe.config(base), (("table", ""),))
    bars = Bars(Console(quiet=True), [cell], {})
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        list(Pool(Store(tmp_path), Limits(), lambda cell: {}).run([cell], bars))
    assert [process.returncode for process in started] == [-signal.SIGTERM]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_interrupts_are_noted_and_raised_where_asked_for() -> None:
    with Interrupts() as interrupts:
        interrupts.check()
        os.kill(os.getpid(), signal.SIGTERM)
        while not interrupts.count:
            time.sleep(0.01)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
