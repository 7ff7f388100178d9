"""What a run asks of its machine: a device, repeatable kernels, memory that is kept, a way to be stopped."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from istd.cli.environment import set_environment
from istd.engine import runtime
from istd.engine.pack_cache import cache_dir
from istd.engine.runtime import choose_device, deterministic, tune_allocator
from istd.engine.stopping import StopRequest
from istd.errors import ConfigError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


def test_the_first_signal_asks_and_the_second_ends() -> None:
    before, said = handlers(), io.StringIO()
    with StopRequest(Console(file=said)) as stop:
        assert set(handlers()).isdisjoint(before)
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        assert "stopping after this step" in said.getvalue()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert handlers() == before


def test_outside_of_the_main_thread_signals_stay_as_they_are() -> None:
    before, seen = handlers(), []

    def work() -> None:
        with StopRequest(Console(quiet=True)) as stop:
            seen.append((handlers(), stop()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


@pytest.mark.parametrize("name", ["tpu", "", "cuda:99"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"--device(.|\n)*{name}(.|\n)*auto, cpu, cuda"):
        choose_device(name)


@pytest.mark.parametrize(("there", "kind"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch, there: bool, kind: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert choose_device("auto") == torch.device(kind)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_the_allocator_is_left_alone_where_asked_and_where_it_has_no_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, int]] = []
    glibc = SimpleNamespace(mallopt=lambda option, value: asked.append((option, value)) or 1)
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: glibc)
    monkeypatch.setenv("ISTD_TUNE_ALLOCATOR", "0")
    assert not tune_allocator()
    assert asked == []
    monkeypatch.delenv("ISTD_TUNE_ALLOCATOR")
    assert tune_allocator()
    assert {option for option, _ in asked} == {-1, -3}  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: SimpleNamespace())
    assert not tune_allocator()


def switches() -> list[object]:
    cudnn = torch.backends.cudnn
    return [
        cudnn.benchmark,
        cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.get_rng_state().tolist(),
    ]


def test_a_failure_in_a_repeatable_block_leaves_torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    before = switches()
    inside = []

    def fail() -> None:
        with deterministic():
            torch.rand(3)
            inside.append(torch.are_deterministic_algorithms_enabled())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == [True]
    assert switches() == before
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8", "the user's own setting stays"


def test_a_program_that_used_cuda_before_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.warns(UserWarning, match="set it to :4096:8 before"), deterministic():
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_settings_of_the_user_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    set_environment()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["CUBLAS_WORKSPACE_CONFIG"]) == ("ACTIVE", ":4096:8")


def test_packed_folders_lie_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("ISTD_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    places = [cache_dir().as_posix()]
    for name in ("XDG_CACHE_HOME", "ISTD_CACHE"):
        monkeypatch.setenv(name, f"/{name}")
        places.append(cache_dir().as_posix())
    assert places == ["/home/somebody/.cache/istd", "/XDG_CACHE_HOME/istd", "/ISTD_CACHE"]
