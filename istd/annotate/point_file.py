"""`points.csv` and `points.json`, changed image by image without touching anything else in them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._files import write_text
from ..data._names import strip_suffix
from ..data.pointfiles import read_points
from ..errors import ConfigError

Point = tuple[int, int]
"""A pixel (y, x), counted from 0 at the top left."""


@dataclass(frozen=True)
class _Row:
    """One line of a CSV file, or one pair of a JSON file.

    `raw` is what the file says, kept so that fractions, further columns and spellings survive: the cells of
    the line, or [key] and [key, y, x]. `point` is what it means; None says that there is no target.
    """

    name: str
    point: Point | None
    raw: list[Any]


class PointFile:
    """The points of a folder's images in one file that every layout reads.

    An image is annotated if the file names it; without a point it is an image without a target. Lines of
    other images, further columns, and fractions of points that were not moved stay as they were.

    Args:
        path: ends in .csv or .json; need not exist yet.
        images: name → file of every image that the file may name.

    Raises:
        ConfigError: another suffix, or a COCO file.
        DataError: the file is damaged or names an image that is not there; see `read_points`.
    """

    def __init__(self, path: Path, images: Mapping[str, Path]) -> None:
        self._is_csv = path.suffix.lower() == ".csv"
        if not self._is_csv and path.suffix.lower() != ".json":
            raise ConfigError(
                "points are kept in .csv or .json", where=path, found=path.suffix or "no suffix"
            )
        self.path = path.resolve()
        self._images = images
        self._columns = ["name", "y", "x"]
        self._rows: list[_Row] = []
        self._seen: tuple[int, ...] | None = None
        self.reload()

    @property
    def annotations(self) -> dict[str, tuple[Point, ...]]:
        """Name → its points, for each annotated image; none for an image without a target."""
        found: dict[str, dict[Point, None]] = {}
        for row in self._rows:
            points = found.setdefault(row.name, {})
            if row.point is not None:
                points[row.point] = None
        return {name: tuple(points) for name, points in found.items()}

    def changed_outside(self) -> bool:
        """Whether somebody else wrote the file since it was read or written here.

        A file that is gone does not count: what it held is kept and written again with the next change.
        """
        found = self._signature()
        return found is not None and found != self._seen

    def reload(self) -> None:
        """Read the file again. Raises `DataError` if it is damaged; what was known stays known then."""
        seen = self._signature()
        if seen is None:
            return
        read_points(self.path, self._images)  # checks everything, and names what is wrong
        text = self.path.read_text(encoding="utf-8-sig")
        self._rows = self._parse_csv(text) if self._is_csv else _parse_json(text, self.path)
        self._seen = seen

    def set(self, name: str, points: Sequence[Point] | None) -> None:
        """Replace the points of one image and write the file, whole or not at all.

        Args:
            name: the image.
            points: its points in order; empty for no target, None for not annotated.

        Raises:
            WriteError: the disk refused; the file and what is known of it are as before.
        """
        rows = self._changed(name, points)
        write_text(self.path, self._csv_text(rows) if self._is_csv else _json_text(rows))
        self._rows = rows
        self._seen = self._signature()

    def _changed(self, name: str, points: Sequence[Point] | None) -> list[_Row]:
        """All rows with those of `name` replaced, at the place of its first one or at the end."""
        own: dict[Point | None, list[_Row]] = {}
        for row in self._rows:
            if row.name == name:
                own.setdefault(row.point, []).append(row)
        wanted: list[Point | None] = []
        if points is not None:
            wanted += list(dict.fromkeys(points)) or [None]
        fresh = [row for point in wanted for row in own.get(point) or [self._new_row(name, point)]]
        place = next((i for i, row in enumerate(self._rows) if row.name == name), len(self._rows))
        return self._rows[:place] + fresh + [row for row in self._rows[place:] if row.name != name]

    def _new_row(self, name: str, point: Point | None) -> _Row:
        # A name that looks as if it had a suffix would lose it when read: such an image goes by its file.
        spelled = self._images[name].name if strip_suffix(name) != name else name
        for row in self._rows:
            if row.name == name:
                spelled = str(row.raw[self._columns.index("name")])
                break
        if not self._is_csv:
            return _Row(name, point, [spelled, *(point or ())])
        cells = dict(zip(("name", "y", "x"), (spelled, *(map(str, point or ("", "")))), strict=True))
        return _Row(name, point, [cells.get(column, "") for column in self._columns])

    def _signature(self) -> tuple[int, ...] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _parse_csv(self, text: str) -> list[_Row]:
        lines = [cells for cells in csv.reader(io.StringIO(text, newline=""), skipinitialspace=True) if cells]
        self._columns = lines[0]
        at = {column: i for i, column in enumerate(self._columns)}
        rows = []
        for cells in lines[1:]:
            y, x = cells[at["y"]], cells[at["x"]]
            point = None if y == "" and x == "" else (round(float(y)), round(float(x)))
            rows.append(_Row(strip_suffix(cells[at["name"]]), point, cells))
        return rows

    def _csv_text(self, rows: Sequence[_Row]) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self._columns)
        writer.writerows(row.raw for row in rows)
        return out.getvalue()


def _parse_json(text: str, path: Path) -> list[_Row]:
    content = json.loads(text)
    if {"images", "annotations"} <= set(content):
        raise ConfigError(
            "a COCO file holds more than points, and is not changed",
            where=path,
            fix="convert it with `istd points`, or keep the points in another file with --points",
        )
    rows = []
    for key, some in content.items():
        name = strip_suffix(key)
        rows += [_Row(name, (round(float(y)), round(float(x))), [key, y, x]) for y, x in some]
        if not some:
            rows.append(_Row(name, None, [key]))
    return rows


def _json_text(rows: Sequence[_Row]) -> str:
    entries: dict[str, list[list[Any]]] = {}
    for row in rows:
        pairs = entries.setdefault(row.raw[0], [])
        if row.point is not None:
            pairs.append(row.raw[1:])
    lines = (
        f"  {json.dumps(key, ensure_ascii=False)}: {json.dumps(pairs)}" for key, pairs in entries.items()
    )
    return "{\n" + ",\n".join(lines) + ("\n" if entries else "") + "}\n"
