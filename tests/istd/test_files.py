"""Files written whole or not at all, and what is left of those that were not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from istd._files import atomic_path, is_whole, partial_paths, remove_stale_partials, sealed, write_text
from istd.errors import WriteError


def write_and_fail(
    target: Path, error: BaseException, previous: Path | None = None, made: list[Path] | None = None
) -> None:
    with atomic_path(target, previous=previous) as partial:
        partial.write_text("4")
        if made is not None:
            made.append(partial)
        raise error


def test_the_file_before_is_kept_where_asked_for(tmp_path: Path) -> None:
    target, previous = tmp_path / "a.txt", tmp_path / "a.previous.txt"
    for text in ("1", "2", "3"):
        with atomic_path(target, previous=previous) as partial:
            partial.write_text(text)
    assert (target.read_text(), previous.read_text()) == ("3", "2")
    with pytest.raises(WriteError, match=r"a\.txt"):
        write_and_fail(target, OSError(28, "No space left on device"), previous)
    assert (target.read_text(), previous.read_text()) == ("3", "2")
    assert len(list(tmp_path.iterdir())) == 2


def test_only_what_was_left_long_ago_is_removed(tmp_path: Path) -> None:
    partials: list[Path] = []
    for name in ("old.h5", "new.h5"):
        with pytest.raises(KeyboardInterrupt):
            write_and_fail(tmp_path / name, KeyboardInterrupt(), made=partials)
        partials[-1].write_text("left by a kill")
    write_text(tmp_path / "whole.h5", "")
    for path in (partials[0], tmp_path / "whole.h5"):
        os.utime(path, (0, time.time() - 7200))
    remove_stale_partials(tmp_path)
    assert not partials[0].exists()
    assert partial_paths(tmp_path / "new.h5") == [partials[1]]
    assert (tmp_path / "whole.h5").exists()


def test_a_seal_finds_what_was_changed() -> None:
    value = sealed({"iou": 0.1 + 0.2, "names": ["a", "ü"], "none": None})
    assert is_whole(value)
    assert not is_whole({**value, "iou": 0.3})
    assert not is_whole({**value, "sha256": "0"})
    assert not is_whole({**value, "more": 1})
    assert is_whole({"iou": 0.3})
