"""What a newcomer relies on: files that can be read in one sitting, and a map that is right."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAP = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
LONGEST = 400
LONGER_FOR_A_REASON: dict[str, str] = {}
"""Path → why it is not cut."""


def test_no_file_is_too_long_to_be_read() -> None:
    folders = ("bilevel", "istd", "benchmarks", "examples", "tests", "docs", ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 400
    lengths = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8").count("\n") for path in files
    }
    long = {name for name, lines in lengths.items() if lines > LONGEST}
    assert long == set(LONGER_FOR_A_REASON), {name: lengths.get(name) for name in long}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w.]+/[\w./]+)`", MAP))))
def test_every_path_of_the_map_is_there(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize("folder", ["istd/losses", "istd/labels", "bilevel/hypergradients"])
def test_every_file_of_formulas_is_on_the_map(folder: str) -> None:
    public = [f"{folder}/{path.name}" for path in (ROOT / folder).glob("[!_]*.py")]
    assert [name for name in public if f"`{name}`" not in MAP] == []


def test_the_picture_is_what_its_script_draws() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "assets" / "architecture.py"))["draw"]()
    assert (ROOT / "docs" / "assets" / "architecture.svg").read_text(encoding="utf-8") == drawn


def test_the_picture_has_every_package() -> None:
    picture = (ROOT / "docs" / "assets" / "architecture.svg").read_text(encoding="utf-8")
    folders = [init.parent for name in ("bilevel", "istd") for init in (ROOT / name).glob("*/__init__.py")]
    names = {folder.name for folder in folders} - {"logging"}  # callbacks that write; nothing imports them
    assert sorted(name for name in names if not re.search(rf"\b{name}\b", picture)) == []
