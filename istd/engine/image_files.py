"""Which image files a person means: files, folders and patterns; and how answers to them are named."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

from .._paths import given_path
from ..data import IMAGE_SUFFIXES
from ..errors import DataError


def find_images(sources: Iterable[str | Path], recursive: bool = False) -> list[Path]:
    """Image files among `sources`, each once, in the order of the sources and then of their names.

    Args:
        sources: files; folders, for the images in them that are not hidden; patterns such as
            `images/**/*.png`, for the images and folders that match. What exists is never taken for a
            pattern.
        recursive: also look into the folders of a folder.

    Raises:
        DataError: a source does not exist or matches nothing, or there is no image at all.
    """
    sources = list(sources)
    found: list[Path] = []
    for source in map(given_path, sources):
        if source.exists():
            found += _images_at(source, recursive)
            continue
        pattern = str(source)
        # Path.glob takes no absolute patterns.
        matches = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else []  # noqa: PTH207
        if not matches:
            raise DataError(
                "there is no such image or folder",
                where=source,
                expected="a file, a folder, or a pattern such as 'images/*.png' that matches one",
            )
        for match in map(Path, matches):
            if match.is_dir() or match.suffix.lower() in IMAGE_SUFFIXES:
                found += _images_at(match, recursive)
    if not found:
        raise DataError(
            "there is no image to look at",
            found=", ".join(map(str, sources)),
            expected=f"files ending in {', '.join(IMAGE_SUFFIXES)}",
            fix=None if recursive else "add --recursive to look into folders of folders",
        )
    return list(dict.fromkeys(found))


def _images_at(path: Path, recursive: bool) -> list[Path]:
    if not path.is_dir():
        return [path]
    inside = path.rglob("*") if recursive else path.iterdir()
    try:
        return sorted(  # macOS leaves ._NAME.png beside NAME.png on disks of other systems
            file
            for file in inside
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
        )
    except OSError as error:
        raise DataError("the folder cannot be listed", where=path, found=error) from error


def name_answers(paths: Sequence[Path]) -> list[str]:
    """A name for the answers to each path: its stem, numbered where another path has the same one."""
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        name, number = path.stem, 2
        while name.casefold() in taken:  # some file systems do not tell A.png from a.png
            name, number = f"{path.stem}-{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names
