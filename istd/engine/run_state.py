"""The checkpoint that an unfinished run goes on from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .state_file import load_state, save_state

LAYOUT = 3
"""Which parts the state has; one more whenever that changes."""


def save_run_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run, with the layout that it has."""
    save_state(path, {**state, "layout": LAYOUT}, kind="run")


def load_run_state(path: Path) -> dict[str, Any]:
    """Read what `save_run_state` wrote.

    Raises:
        CheckpointError: the file is damaged, or its state has another layout.
    """
    state = load_state(path, kind="run")
    found = state.get("layout", 1)
    if found != LAYOUT:
        raise CheckpointError(
            "the unfinished run was written by another version of istd",
            where=path,
            found=f"state layout {found}",
            expected=f"state layout {LAYOUT}",
            fix="finish it with that version, or start a new run",
        )
    return state


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Restore a state inside the block: parts that are missing or do not fit become `CheckpointError`."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            "the state of the unfinished run does not fit its configuration",
            where=path,
            found=f"{type(error).__name__}: {error}",
            expected="the state that this run wrote",
            fix="put config.json and the checkpoint back as they were, or start a new run",
        ) from error


def check_identity(saved: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    """Refuse to go on with other data or weights than the run began with.

    Raises:
        CheckpointError: names what differs.
    """
    different = [key for key, value in now.items() if saved[key] != value]
    if different:
        raise CheckpointError(
            "the run was trained on other data or with another frozen model",
            where=where,
            found=", ".join(f"{key} {now[key]}" for key in different),
            expected=", ".join(f"{key} {saved[key]}" for key in different),
            fix="put the images, splits and weights back as they were, or start a new run",
        )
