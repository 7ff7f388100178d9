"""Names of images, from files that are not trusted."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from ..errors import DataError
from ._imagefile import IMAGE_SUFFIXES

_NO_TEXT = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


def is_plain_text(name: str) -> bool:
    """Whether a name is text that can be written and shown: no control characters, no broken Unicode."""
    return _NO_TEXT.search(name) is None


def check_regular(path: Path, what: str) -> None:
    """`DataError` if `path` is there but is no file: opening a pipe would wait for ever."""
    if path.exists() and not path.is_file():
        raise DataError(f"the {what} is not a file", where=path, expected="a file of text")


def check_name(name: str, source: Path) -> str:
    """`name` if it can be that of a file in a folder, composed; else `DataError`: `source` is not trusted."""
    if not is_plain_text(name) or name in ("", ".", "..") or "/" in name or "\\" in name or ":" in name:
        raise DataError(
            f"{name!r} is not the name of an image",
            where=source,
            expected="plain names, one a line, without folders or drive letters",
            fix="leave the folder out; images are looked up in the dataset's image folder only",
        )
    return composed(name)


def composed(name: str) -> str:
    """`name` in Unicode's composed form (NFC): macOS may write é in a file name as e and an accent."""
    return unicodedata.normalize("NFC", name)


def strip_suffix(name: str) -> str:
    """`name` without the suffix of an image file, if it has one; other dots belong to the name."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else name
