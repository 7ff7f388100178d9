"""A plain folder of images, for one's own data.

images/NAME.png            the images; png, bmp, jpg or tif
masks/NAME.png             optional: binary masks
points.csv | points.json   optional: one point per target; without it, the centroids of the masks' components
{train,val,test}.txt       optional: names, one a line; without them, a fixed split of 60, 20 and 20 %

`points.csv` has a header with at least the columns name, y and x; `points.json` is {"NAME": [[y, x], …], …}.
Both count pixels from 0 at the top left and may name images with or without suffix; fractions are rounded to
the nearest pixel. An image without a row is an image without a target. A row with empty y and x (in JSON: an
empty list) says the same in as many words: `istd annotate` tells by it what was looked at from what is to do.
"""

from __future__ import annotations

import csv
import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ...errors import DataError
from .._record import DataWarning
from ..dataset import SPLITS, Dataset
from ._files import FolderDataset, check_name, inside, list_images, read_split, strip_suffix
from ._registry import Layout, register_layout


def fixed_split(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Split names 60/20/20 in an order that looks random but depends on the names alone.

    The names are ordered by their SHA-256; of n, the first n // 5 are the test split, the next n // 5 the
    validation split. Frames of one video end up in several splits: give split files for such data.
    """
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8")).digest())
    fifth = len(ordered) // 5
    parts = {"test": ordered[:fifth], "val": ordered[fifth : 2 * fifth], "train": ordered[2 * fifth :]}
    return {split: tuple(sorted(parts[split])) for split in SPLITS}


def read_points(path: Path, images: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """Read `points.csv` or `points.json`: name → int64 [N, 2], rows (y, x), duplicates taken out.

    Raises:
        DataError: a damaged file, a missing column, a value that is not a finite number, an unknown image.
    """
    rows = _csv_rows(path) if path.suffix == ".csv" else _json_rows(path)
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


def _csv_rows(path: Path) -> Iterator[tuple[str, object, object, object]]:
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


def _json_rows(path: Path) -> Iterator[tuple[str, object, object, object]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("the point file cannot be read", where=path, found=error) from error
    expected = '{"NAME": [[y, x], …], …}'
    if not isinstance(content, dict):
        raise DataError("the point file is not an object", where=path, expected=expected)
    for name, some in content.items():
        if not isinstance(some, list) or not all(isinstance(one, list) and len(one) == 2 for one in some):
            shown = repr(some)[:100]
            raise DataError(
                f"the points of {name!r} are not pairs", where=path, found=shown, expected=expected
            )
        for y, x in some:
            yield f"the entry {name!r}", name, y, x


def _detect(root: Path) -> bool:
    return (root / "images").is_dir()


def _open(root: Path, mask_threshold: float | None) -> Dataset:
    images = list_images(root / "images")
    split_files = {split: root / f"{split}.txt" for split in SPLITS if (root / f"{split}.txt").exists()}
    if split_files:
        splits = {split: read_split(path, root) for split, path in split_files.items()}
    else:
        splits = fixed_split(images)
        counts = ", ".join(f"{len(names)} {split}" for split, names in splits.items())
        warnings.warn(
            f"{root}: there are no split files, so the images are split by a hash of their names ({counts})",
            DataWarning,
            stacklevel=3,
        )
    point_files = [
        inside(root, path) for path in (root / "points.csv", root / "points.json") if path.exists()
    ]
    if len(point_files) > 1:
        raise DataError("there are two point files", where=root, found="points.csv, points.json")
    return FolderDataset(
        root,
        "folder",
        splits=splits,
        split_files=split_files,
        images=images,
        masks=list_images(root / "masks") if (root / "masks").is_dir() else None,
        points=read_points(point_files[0], images) if point_files else None,
        mask_threshold=mask_threshold,
    )


register_layout(
    Layout(
        name="folder",
        tree="images/, and as you have them masks/, points.csv or points.json, {train,val,test}.txt",
        detect=_detect,
        open=_open,
        fallback=True,
    )
)
