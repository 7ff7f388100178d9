"""What has been answered so far, on disk after every image, so that a long job can be gone on with."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from .._files import write_text
from ..errors import ConfigError, WriteError
from ..targets import ImageTargets

FORMAT = 1


class PredictionLog:
    """A file of one JSON object a line: first the settings, then an image each.

    Args:
        path: the file.
        settings: what the answers depend on: the weights, the threshold, the tiling.
        resume: keep the answers that are there; else the file is begun anew.

    Raises:
        ConfigError: the answers that are there were made with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any], resume: bool) -> None:
        self.path = path
        # By name, as pictures are: of two files of one name, the later one's picture is in the folder.
        self._known: dict[str, dict[str, Any]] = {}
        lines = _read(path) if resume else []
        if lines and lines[0].get("settings") != settings:
            before = lines[0].get("settings")
            before = before if isinstance(before, dict) else {}
            other = sorted(key for key in {*settings, *before} if settings.get(key) != before.get(key))
            raise ConfigError(
                "the answers in this folder were made with other settings",
                where=path,
                found=", ".join(f"{key}={before.get(key)}" for key in other),
                expected=", ".join(f"{key}={settings.get(key)}" for key in other),
                fix="choose another --out, or leave --skip-existing away to answer everything again",
            )
        for line in lines[1:]:
            self._known[line["answer"]["name"]] = line
        # Written anew, which also drops a line that a crash cut off.
        kept = [{"format": FORMAT, "settings": settings}, *self._known.values()]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def find(self, name: str, source: Path) -> ImageTargets | None:
        """The answer to an image if there is one, to this very file, which has not changed since."""
        line = self._known.get(name)
        if line is None or line["answer"]["file"] != str(source) or line["stamp"] != _stamp(source):
            return None
        return ImageTargets.from_dict(line["answer"])

    def add(self, source: Path, answer: ImageTargets) -> None:
        """Note an answer. Raises `WriteError`."""
        found = {"stamp": _stamp(source), "answer": answer.to_dict()}
        self._known[answer.name] = found
        line = json.dumps({**found, "crc": _checksum(found)})
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError as error:
            raise WriteError(
                "the answers could not be noted", where=self.path, found=error, fix="free some space"
            ) from error


def _stamp(source: Path) -> list[int] | None:
    try:
        status = source.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _checksum(found: dict[str, Any]) -> int:
    """CRC-32 of an answer: a flipped bit in a figure would else be taken for another answer."""
    return zlib.crc32(json.dumps(found, sort_keys=True).encode())


def _read(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; empty if there is none of ours. Reading ends at the first damaged line."""
    lines: list[dict[str, Any]] = []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    for row in text.splitlines():
        try:
            line = json.loads(row)
            if not lines and line["format"] != FORMAT:
                return []
            if lines:
                ImageTargets.from_dict(line["answer"])
                found = {"stamp": line["stamp"], "answer": line["answer"]}
                if line.get("crc", _checksum(found)) != _checksum(found):  # earlier versions wrote none
                    break
        except (ValueError, KeyError, TypeError, RecursionError):
            break
        lines.append(line)
    return lines
