"""The checkpoint that an unfinished run goes on from, and the one before it.

A run outlives a damaged checkpoint: it goes on from the one before, and since every step can be repeated bit
for bit, it ends with the same result. Labels and log of later steps are cut off as after any stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, WriteError
from .state_file import DamagedStateError, load_state, save_state

LAYOUT = 3
"""Which parts the state has; one more whenever that changes."""


MAY_CHANGE = ("data", "vfm", "vfm_cache_gb", "memory_gb", "device", "checkpoint_seconds", "process_timeout")
"""Settings that a resumed run may have others of: where things lie and run, since a run can move."""


def previous_path(path: Path) -> Path:
    """Where the checkpoint before `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_run_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run, with the layout that it has; the one before is kept in `previous_path`."""
    save_state(path, {**state, "layout": LAYOUT}, kind="run", previous=previous_path(path))


def last_run_state(path: Path, report: Callable[[str], None]) -> dict[str, Any] | None:
    """The last state that can be read, or None where there is none; for the owner of the run folder.

    Args:
        path: the checkpoint. If it is damaged, or a process died while it replaced it, the one before takes
            its name.
        report: called with a sentence for people if that happens.

    Raises:
        CheckpointError: both are damaged, or the state is of another version.
        WriteError: the one before cannot take the name.
    """
    previous = previous_path(path)
    damaged: DamagedStateError | None = None
    try:
        if path.exists():
            return load_run_state(path)
    except DamagedStateError as error:
        damaged = error
    if not previous.exists():
        if damaged is not None:
            raise damaged
        return None
    try:
        state = load_run_state(previous)
    except CheckpointError as error:
        raise damaged or error from None
    try:
        previous.replace(path)
    except OSError as error:
        raise WriteError(
            "the checkpoint before the last one cannot be taken", where=path, found=error
        ) from error
    what = "the last checkpoint is not there" if damaged is None else str(damaged)
    report(f"{what}\nThe run goes on from the checkpoint before it; the result is the same.")
    return state


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
    """Refuse to go on with other images, masks, points, splits or weights than the run began with.

    States of earlier versions may not say something that is compared now.

    Raises:
        CheckpointError: names what differs.
    """
    _check_same(
        {key: saved.get(key, value) for key, value in now.items()},
        now,
        "the run was trained on other data or with another frozen model",
        where,
        "put images, masks, points, splits and weights back as they were, or start a new run",
    )


def check_config(saved: Mapping[str, Any] | None, now: Mapping[str, Any], where: Path) -> None:
    """Refuse to go on with another configuration than the run began with.

    What is in `MAY_CHANGE` is not compared. States of earlier versions say nothing about the configuration.

    Raises:
        CheckpointError: names what differs: the file is damaged, or was edited.
    """
    _check_same(
        {key: value for key, value in (saved or {}).items() if key not in MAY_CHANGE},
        now,
        "the configuration is not the one that the run began with",
        where,
        "put these values back, or start a new run",
    )


def _check_same(
    saved: Mapping[str, Any], now: Mapping[str, Any], problem: str, where: Path, fix: str
) -> None:
    """Raise `CheckpointError` that names what of `saved` is otherwise `now`."""
    different = [key for key, value in saved.items() if value != now.get(key)]
    if different:
        raise CheckpointError(
            problem,
            where=where,
            found=", ".join(f"{key}={now.get(key)}" for key in different),
            expected=", ".join(f"{key}={saved[key]}" for key in different),
            fix=fix,
        )
