"""What was measured, a folder for each cell: an interrupted benchmark goes on where it stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from istd._files import write_json

from .cells import Base, Cell, Recipe, completed

Result = dict[str, Any]
"""What `cell.json` holds; see `measure.py`."""


class CellFolder:
    """The files of one cell.

    Attributes:
        job: what the worker is asked.
        result: what it answers, written when all else is done.
        run: the run folder of `istd`.
        usage: seconds and memory until the last checkpoint.
        probes: hypergradients compared, one JSON object a line.
        output: what the worker printed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.job = root / "job.json"
        self.result = root / "cell.json"
        self.run = root / "run"
        self.usage = root / "usage.json"
        self.probes = root / "probes.jsonl"
        self.output = root / "worker.log"


class Store:
    """The cells below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, cell: Cell) -> CellFolder:
        return CellFolder(self.root / cell.slug)

    def load(self, cell: Cell) -> Result | None:
        """What was measured for this very request; None if nothing was."""
        found = read_json(self.folder(cell).result)
        return found if found is not None and _answers(found.get("request"), cell) else None

    def different(self, cell: Cell) -> list[str]:
        """The settings in which the stored cell, finished or not, differs from what is asked for."""
        stored = (read_json(self.folder(cell).job) or {}).get("request")
        if stored is None or _answers(stored, cell):
            return []
        old, new = completed(stored["config"]), cell.config
        names = sorted(name for name in {*old, *new} if old.get(name, ...) != new.get(name, ...))
        return names or ["probe"]

    def prepare(self, cell: Cell, job: dict[str, Any]) -> CellFolder:
        """The folder of a cell that is to be run: as it was left by the same request, else empty."""
        folder = self.folder(cell)
        stored = (read_json(folder.job) or {}).get("request")
        if not _answers(stored, cell):
            self.remove(cell)
            stored = cell.request
        folder.result.unlink(missing_ok=True)
        write_json(folder.job, {**job, "request": stored})
        return folder

    def save(self, cell: Cell, result: Result) -> None:
        write_json(self.folder(cell).result, result)

    def remove(self, cell: Cell) -> None:
        """Forget a cell with all its files."""
        shutil.rmtree(self.folder(cell).root, ignore_errors=True)

    def others(self, base: Base, planned: set[str]) -> tuple[list[Result], int]:
        """Stored cells that are not planned now: those of the same base, and how many are of another one."""
        same, foreign = [], 0
        for path in sorted(self.root.glob("*/cell.json")):
            found = read_json(path)
            if found is None or path.parent.name in planned:
                continue
            try:
                fits = Recipe(**found["recipe"]).config(base) == completed(found["request"]["config"])
            except Exception:  # written by another version, with settings or rows unknown to this one
                fits = False
            if fits:
                same.append(found)
            else:
                foreign += 1
        return same, foreign


def _answers(stored: dict[str, Any] | None, cell: Cell) -> bool:
    """Whether what was asked for once is what is asked for now; a probe that nobody needs does no harm."""
    if stored is None or completed(stored["config"]) != cell.config:
        return False
    return cell.probe is None or stored["probe"] == cell.probe


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
