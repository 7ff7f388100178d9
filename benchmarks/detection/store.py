"""What was measured, a folder for each cell: an interrupted benchmark goes on where it stopped."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from istd._files import write_json

from .cells import Base, Cell, Recipe, completed

Result = dict[str, Any]
"""What `cell.json` holds; see `worker.make_cell`."""


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
    """The cells below a folder.

    Args:
        root: the folder.
        data_hash: gives the hash of the images as they are now: cells of other images do not count. None does
            not look. It is called once, when it is needed.
    """

    def __init__(self, root: Path, data_hash: Callable[[], str] | None = None) -> None:
        self.root = root
        self._data_hash = None if data_hash is None else functools.cache(data_hash)

    def folder(self, cell: Cell) -> CellFolder:
        return CellFolder(self.root / cell.slug)

    def load(self, cell: Cell) -> Result | None:
        """What was measured for this very request; None if nothing was."""
        found = read_result(self.folder(cell).result)
        return found if found is not None and self._answers(found, cell) else None

    def different(self, cell: Cell) -> list[str]:
        """The settings in which the stored cell, finished or not, differs from what is asked for."""
        stored = read_job(self.folder(cell).job)
        if stored is None or self._answers(stored, cell):
            return []
        old, new = completed(stored["request"]["config"]), cell.config
        names = sorted(name for name in {*old, *new} if old.get(name, ...) != new.get(name, ...))
        return names or ["probe" if self._of_these_images(stored) else "images"]

    def prepare(self, cell: Cell, job: dict[str, Any]) -> CellFolder:
        """The folder of a cell that is to be run: as it was left by the same request, else empty.

        What another request left is kept, in `replaced`.
        """
        folder = self.folder(cell)
        stored = read_job(folder.job)
        request = cell.request
        if stored is not None and self._answers(stored, cell):
            request = stored["request"]
        else:
            self._move_aside(folder.root)
        folder.result.unlink(missing_ok=True)
        images = {} if self._data_hash is None else {"data_hash": self._data_hash()}
        write_json(folder.job, {**job, **images, "request": request})
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
            if path.parent.name in planned:
                continue
            found = read_result(path)
            try:
                fits = found is not None and Recipe(**found["recipe"]).config(base) == completed(
                    found["request"]["config"]
                )
            except Exception:  # written by another version, with rows unknown to this one
                fits = False
            if found is not None and fits and self._of_these_images(found):
                same.append(found)
            else:
                foreign += 1
        return same, foreign

    def _answers(self, stored: dict[str, Any], cell: Cell) -> bool:
        """Whether a cell was asked for as it is now; a probe that nobody needs does no harm."""
        request = stored["request"]
        return (
            completed(request["config"]) == cell.config
            and (cell.probe is None or request["probe"] == cell.probe)
            and self._of_these_images(stored)
        )

    def _of_these_images(self, stored: dict[str, Any]) -> bool:
        """Whether a result or job is of the images as they are now; those of older versions do not say."""
        known = stored.get("data_hash")
        return known is None or self._data_hash is None or known == self._data_hash()

    def _move_aside(self, root: Path) -> None:
        if root.exists():
            number = 1
            while (place := self.root / "replaced" / f"{root.name}-{number}").exists():
                number += 1
            place.parent.mkdir(exist_ok=True)
            root.rename(place)


_JOB = {"request", "recipe", "label", "slug", "places"}
_MADE = {"metrics", "groups", "curves", "probes", "usage", "usage_total"}


def read_job(path: Path) -> dict[str, Any] | None:
    """What a worker was asked; None if there is nothing that this version can read."""
    found = read_json(path)
    if found is None or not found.keys() >= _JOB:
        return None
    try:
        completed(found["request"]["config"])
        found["request"]["probe"]
    except Exception:  # damaged, or of another version with settings unknown to this one
        return None
    return found


def read_result(path: Path) -> Result | None:
    """What a worker answered; None if there is nothing that this version can read."""
    found = read_job(path)
    if found is None or "reason" not in found:
        return None
    status = found.get("status")
    return found if status == "failed" or (status == "ok" and found.keys() >= _MADE) else None


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
