"""Names of images, from files that are not trusted."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from ..errors import DataError
from ._imagefile import IMAGE_SUFFIXES


def check_name(name: str, source: Path) -> str:
    """`name`, if it can be the name of a file in a folder, else `DataError`: `source` is not trusted."""
    harmless = not any(unicodedata.category(character) == "Cc" for character in name)
    if not harmless or name in ("", ".", "..") or "/" in name or "\\" in name or ":" in name:
        raise DataError(
            f"{name!r} is not the name of an image",
            where=source,
            expected="plain names, one a line, without folders or drive letters",
            fix="leave the folder out; images are looked up in the dataset's image folder only",
        )
    return name


def strip_suffix(name: str) -> str:
    """`name` without the suffix of an image file, if it has one; other dots belong to the name."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else name
