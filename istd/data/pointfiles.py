"""Point labels in files: CSV, JSON, COCO, and images with a dot for each target.

`.csv`     a header with at least the columns name, y and x, then one row per target
`.json`    {"NAME": [[y, x], …], …}
`.json`    COCO, told by its "images" and "annotations": the first keypoint of an annotation (unless its
           visibility is 0: not labelled), else the centre of its box, else that of its polygon's bounds
a folder   NAME.png: an image, black but for a dot of at most 25 pixels on each target

All count pixels from 0 at the top left and may name images with or without suffix; fractions are rounded to
the nearest pixel, exact halves to the even one. A row with empty y and x (in JSON: an empty list; in COCO: an
image without an annotation) says that an image has no target. An image without a row counts as one without a
target too, but perhaps nobody has looked at it: training, `istd doctor` and `istd annotate` say so.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .._files import atomic_path, write_text
from .._regions import find_regions
from ..errors import DataError
from ._imagefile import read_gray_values
from ._names import check_name, check_regular, strip_suffix
from .points import centroid_points

MAX_DOT = 25
"""Largest dot in a point image, in pixels; anything larger is a mask."""

_Row = tuple[str, object, object, object]
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_FARTHEST = 2**31


def read_points(path: Path, images: Container[str]) -> dict[str, np.ndarray]:
    """Read a CSV, JSON or COCO file: name → int64 [N, 2], rows (y, x), duplicates taken out.

    Args:
        path: the file.
        images: the names that may occur.

    Raises:
        DataError: a damaged file, a missing column, a row with more cells than the header, a value that is
            not a finite number, an unknown image, a name or id that JSON gives twice.
    """
    check_regular(path, "point file")
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    points: dict[str, list[tuple[int, int]]] = {}
    for where, entry, y, x in rows:
        name = strip_suffix(check_name(str(entry), path))
        if name not in images:
            raise DataError(f"{where} names {name!r}, which is no image of the folder", where=path)
        if y == "" and x == "":
            points.setdefault(name, [])
            continue
        point = _whole(y), _whole(x)
        if point[0] is None or point[1] is None:
            raise DataError(
                f"{where} is not a point",
                where=path,
                found=f"y = {_shown(y)}, x = {_shown(x)}",
                expected="two numbers, with a point before the fraction",
            )
        points.setdefault(name, []).append((point[0], point[1]))
    return {
        name: np.array(list(dict.fromkeys(some)), np.int64).reshape(-1, 2) for name, some in points.items()
    }


def _whole(value: object) -> int | None:
    """The pixel that a number names, exact halves to the even one as in `centroid_points`; None if no number.

    Python reads more as numbers than any other program that writes tables: 1_0 is not a place.
    """
    text = str(value).strip()
    if isinstance(value, bool) or len(text) > 100 or _NUMBER.fullmatch(text) is None:
        return None
    number = float(text)
    return round(number) if abs(number) < _FARTHEST else None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def read_point_image(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """Read an image of dots: int64 [N, 2], rows (y, x), the centre of each dot; and its (height, width).

    Raises:
        DataError: not an image, a dot of more than 25 pixels, or a JPEG, which makes many dots of one.
    """
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise DataError(
            "points cannot be read from a JPEG, which blurs dots",
            where=path,
            expected="PNG, BMP or TIFF",
            fix="export the points again, best as .csv or .json",
        )
    values = read_gray_values(path)
    largest = int(find_regions(values).areas.max(initial=0))
    if largest > MAX_DOT:
        raise DataError(
            "this is no image of points",
            where=path,
            found=f"a region of {largest} pixels",
            expected=f"black but for one dot of at most {MAX_DOT} pixels on each target",
            fix="make points from masks with `istd points`",
        )
    return centroid_points(values), (values.shape[0], values.shape[1])


def write_points(path: str | Path, points: Mapping[str, np.ndarray]) -> None:
    """Write points as CSV or JSON, chosen by the suffix; an image without points gets an empty entry.

    Args:
        path: the file, `.csv` or `.json`.
        points: name → integers [N, 2], rows (y, x).

    Raises:
        DataError: another suffix. WriteError: the disk.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        entries = (f"  {json.dumps(name)}: {json.dumps(some.tolist())}" for name, some in points.items())
        write_text(path, "{\n" + ",\n".join(entries) + "\n}\n")
        return
    if path.suffix.lower() != ".csv":
        raise DataError("points are written as .csv or .json", where=path, found=path.suffix or "no suffix")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("name", "y", "x"))
    for name, some in points.items():
        writer.writerows((name, y, x) for y, x in some.tolist())
        if not len(some):
            writer.writerow((name, "", ""))
    write_text(path, stream.getvalue())


def write_point_image(path: str | Path, points: np.ndarray, size: tuple[int, int]) -> None:
    """Write points as an 8-bit PNG of `size` (height, width): 255 at each point, 0 elsewhere."""
    image = np.zeros(size, np.uint8)
    image[tuple(points.T)] = 255
    _, encoded = cv2.imencode(".png", image)
    with atomic_path(path) as partial:
        partial.write_bytes(encoded.tobytes())


def _csv_rows(path: Path) -> Iterator[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            columns = reader.fieldnames or []
            if not {"name", "y", "x"} <= set(columns):
                raise DataError(
                    "the point file lacks a column",
                    where=path,
                    found=", ".join(columns) or "no header",
                    expected="a header line with name, y and x",
                )
            if len(set(columns)) != len(columns):
                raise DataError(
                    "the point file has two columns of one name", where=path, found=", ".join(columns)
                )
            for row in reader:
                if None in row:
                    raise DataError(
                        f"line {reader.line_num} has more cells than the header",
                        where=path,
                        found=_shown(row[None]),
                        expected=f"{len(columns)} cells",
                        fix="write fractions with a point, not a comma, or quote the cell",
                    )
                yield f"line {reader.line_num}", row["name"], row["y"], row["x"]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError("the point file cannot be read", where=path, found=error) from error


def _json_rows(path: Path) -> Iterator[_Row]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("the point file cannot be read", where=path, found=error) from error
    expected = '{"NAME": [[y, x], …], …}, or COCO'
    if not isinstance(content, dict):
        raise DataError("the point file is not an object", where=path, expected=expected)
    if isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list):
        yield from _coco_rows(path, content["images"], content["annotations"])
        return
    for name, some in content.items():
        if not isinstance(some, list) or not all(isinstance(one, list) and len(one) == 2 for one in some):
            shown = repr(some)[:100]
            raise DataError(
                f"the points of {name!r} are not pairs", where=path, found=shown, expected=expected
            )
        if not some:
            yield f"the entry {name!r}", name, "", ""
        for y, x in some:
            yield f"the entry {name!r}", name, y, x


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two values of one name the first would be lost without a word."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {_shown(twice)} occurs twice in one object")
    return found


def _coco_rows(path: Path, images: list[Any], annotations: list[Any]) -> Iterator[_Row]:
    try:
        # COCO files often name images with the folder that they lay in when they were annotated.
        names = {one["id"]: str(one["file_name"]).replace("\\", "/").rpartition("/")[2] for one in images}
        if len(names) != len(images):
            raise ValueError("two images have one id")
        rows = [(names[one["image_id"]], *_coco_point(one)) for one in annotations]
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise DataError(
            "the COCO file is damaged",
            where=path,
            found=f"{type(error).__name__}: {error}",
            expected="images with id, file_name; annotations with image_id and keypoints, bbox or a polygon",
        ) from error
    files = {str(one["file_name"]).replace("\\", "/") for one in images}
    for stem, times in Counter(strip_suffix(one.rpartition("/")[2]) for one in files).most_common(1):
        if times > 1:
            raise DataError(
                f"{times} images of the COCO file come to one name",
                where=path,
                found=", ".join(sorted(one for one in files if strip_suffix(one.rpartition("/")[2]) == stem)),
                expected="one image a name, whatever its folder and type",
                fix="rename them, there and in the COCO file, or export each folder by itself",
            )
    for name in names.values():
        yield f"the image {name!r}", name, "", ""
    for name, y, x in rows:
        yield f"an annotation of {name!r}", name, y, x


def _coco_point(annotation: Mapping[str, Any]) -> tuple[float, float]:
    """(y, x) of a target. Keypoints name pixels; boxes and polygons have the pixel (0, 0) from 0 to 1."""
    keypoints = annotation.get("keypoints")
    if keypoints and (len(keypoints) < 3 or keypoints[2] != 0):
        return float(keypoints[1]), float(keypoints[0])
    box = annotation.get("bbox")
    if not box:
        corners = np.asarray(annotation["segmentation"][0], np.float64).reshape(-1, 2)
        box = [*corners.min(0), *np.ptp(corners, axis=0)]
    x, y, width, height = (float(number) for number in box)
    return y + height / 2 - 0.5, x + width / 2 - 0.5
