"""Fixtures for the tests of `istd`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fault_server import FaultServer


@pytest.fixture(scope="module")
def without_pictures() -> Iterator[None]:
    """Runs draw nothing: pictures take most of the time of a tiny run."""
    from istd.engine import results

    with pytest.MonkeyPatch.context() as patch:
        for name in ("plot_curves", "plot_overlays", "plot_gallery"):
            patch.setattr(results, name, lambda *arguments, **options: None)
        yield


@pytest.fixture
def istd(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run `istd ARGUMENTS`; the exit code and everything printed."""
    from istd.cli import app as cli

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["istd", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        code = cli.run()
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    """A server of commands that meet faults."""
    from fault_server import FaultServer

    running = FaultServer()
    yield running
    running.close()
