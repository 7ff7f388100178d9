"""What all folder layouts share: safe paths, split files, lists of files, and points beside the images."""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path

import numpy as np

from ...errors import DataError
from .._imagefile import IMAGE_SUFFIXES
from .._names import check_name, check_regular, composed, is_plain_text, strip_suffix
from ..pointfiles import read_points

POINT_FILES = ("points.csv", "points.json")


def inside(root: Path, path: Path) -> Path:
    """`path`, if it stays in `root` after following links, else `DataError`."""
    try:
        target, home = path.resolve(), root.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: Python < 3.13 on a loop of links
        raise DataError(
            "the file cannot be reached", where=path, found=error, fix="put the file in place of the link"
        ) from error
    if not target.is_relative_to(home):
        raise DataError(
            "the file is a link that leads out of the dataset's folder",
            where=path,
            found=f"→ {target}",
            expected=f"a file inside {home}",
            fix="copy the file into the dataset, or open the folder it is really in",
        )
    return path


def read_split(path: Path, root: Path) -> tuple[str, ...]:
    """The names in a split file: UTF-8, one a line, blank lines skipped, image suffixes taken off.

    Raises:
        DataError: a file that is missing or not text, or an entry that is not a plain name.
    """
    check_regular(inside(root, path), "split file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "the split file cannot be read", where=path, found=error, expected="UTF-8 text, one name a line"
        ) from error
    entries = (line.strip() for line in text.splitlines())
    return tuple(check_name(strip_suffix(entry), path) for entry in entries if entry)


def list_images(folder: Path) -> dict[str, Path]:
    """Name → file for every image file in `folder` that is not hidden, sorted by name.

    Raises:
        DataError: the folder cannot be listed, two files differ only in their suffix, or a file's name is not
            plain text.
    """
    found: dict[str, Path] = {}
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise DataError("the image folder cannot be listed", where=folder, found=error) from error
    for path in files:
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue  # macOS leaves ._NAME.png beside NAME.png on disks of other systems
        if not is_plain_text(path.stem):
            raise DataError(
                "an image file has a name that cannot be written",
                where=folder,
                found=ascii(path.name),
                expected="text without control characters",
                fix="rename the file",
            )
        name = composed(path.stem)
        if name in found:
            raise DataError(
                f"two images are named {name}",
                where=folder,
                found=f"{found[name].name}, {path.name}",
                fix="keep one of them",
            )
        found[name] = path
    return found


def list_masks(folder: Path, ending: str = "") -> dict[str, Path]:
    """Image's name → mask, for masks named as their image plus `ending`."""
    return {stem.removesuffix(ending): path for stem, path in list_images(folder).items()}


def listed(folder: Path) -> dict[str, Path] | None:
    """As `list_images`; None if there is no such folder."""
    return list_images(folder) if folder.is_dir() else None


def find_point_files(root: Path) -> list[Path]:
    """Those of `points.csv` and `points.json` that the dataset's folder has.

    Raises:
        DataError: a link that leads out of the folder, also one to a file that is not there: writing it would
            make that file.
    """
    return [inside(root, root / name) for name in POINT_FILES if os.path.lexists(root / name)]


def read_point_file(root: Path, images: Container[str]) -> dict[str, np.ndarray] | None:
    """The points of `points.csv` or `points.json` in the dataset's folder; None if it has neither.

    Raises:
        DataError: both are there; or as for `read_points`.
    """
    found = find_point_files(root)
    if len(found) > 1:
        raise DataError(
            "there are two point files", where=root, found=", ".join(POINT_FILES), fix="keep one of them"
        )
    return read_points(found[0], images) if found else None
