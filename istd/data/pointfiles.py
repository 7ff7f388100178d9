"""Point labels in files: CSV, JSON, COCO, and images with a dot for each target.

`.csv`     a header with at least the columns name, y and x, then one row per target
`.json`    {"NAME": [[y, x], …], …}
`.json`    COCO, told by its "images" and "annotations": the first keypoint of an annotation, else the centre
           of its box, else that of its polygon's bounds
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
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .._files import atomic_path, write_text
from .._regions import find_regions
from ..errors import DataError
from ._imagefile import read_gray_values
from ._names import check_name, strip_suffix
from .points import centroid_points

MAX_DOT = 25
"""Largest dot in a point image, in pixels; anything larger is a mask."""

_Row = tuple[str, object, object, object]


def read_points(path: Path, images: Container[str]) -> dict[str, np.ndarray]:
    """Read a CSV, JSON or COCO file: name → int64 [N, 2], rows (y, x), duplicates taken out.

    Args:
        path: the file.
        images: the names that may occur.

    Raises:
        DataError: a damaged file, a missing column, a value that is not a finite number, an unknown image.
    """
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    points: dict[str, list[tuple[int, int]]] = {}
    for where, entry, y, x in rows:
        name = strip_suffix(check_name(str(entry), path))
        if name not in images:
            raise DataError(f"{where} names {name!r}, which is no image of the folder", where=path)
        if y == "" and x == "":
            points.setdefault(name, [])
            continue
        try:
            # round() takes exact halves to the even pixel, as `centroid_points` does.
            point = round(float(str(y))), round(float(str(x)))
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{where} is not a point", where=path, found=f"y = {y!r}, x = {x!r}", expected="two numbers"
            ) from error
        points.setdefault(name, []).append(point)
    return {
        name: np.array(list(dict.fromkeys(some)), np.int64).reshape(-1, 2) for name, some in points.items()
    }


def read_point_image(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """Read an image of dots: int64 [N, 2], rows (y, x), the centre of each dot; and its (height, width).

    Raises:
        DataError: not an image, or a dot of more than 25 pixels.
    """
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
            for row in reader:
                yield f"line {reader.line_num}", row["name"], row["y"], row["x"]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError("the point file cannot be read", where=path, found=error) from error


def _json_rows(path: Path) -> Iterator[_Row]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
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


def _coco_rows(path: Path, images: list[Any], annotations: list[Any]) -> Iterator[_Row]:
    try:
        # COCO files often name images with the folder that they lay in when they were annotated.
        names = {one["id"]: str(one["file_name"]).replace("\\", "/").rpartition("/")[2] for one in images}
        rows = [(names[one["image_id"]], *_coco_point(one)) for one in annotations]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            "the COCO file is damaged",
            where=path,
            found=f"{type(error).__name__}: {error}",
            expected="images with id, file_name; annotations with image_id and keypoints, bbox or a polygon",
        ) from error
    for name in names.values():
        yield f"the image {name!r}", name, "", ""
    for name, y, x in rows:
        yield f"an annotation of {name!r}", name, y, x


def _coco_point(annotation: Mapping[str, Any]) -> tuple[float, float]:
    """(y, x) of a target. Keypoints name pixels; boxes and polygons have the pixel (0, 0) from 0 to 1."""
    keypoints = annotation.get("keypoints")
    if keypoints:
        return float(keypoints[1]), float(keypoints[0])
    box = annotation.get("bbox")
    if not box:
        corners = np.asarray(annotation["segmentation"][0], np.float64).reshape(-1, 2)
        box = [*corners.min(0), *np.ptp(corners, axis=0)]
    x, y, width, height = (float(number) for number in box)
    return y + height / 2 - 0.5, x + width / 2 - 0.5
