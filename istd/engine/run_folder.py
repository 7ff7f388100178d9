"""The folder of one run: where each file lies, who may write to it, and its log."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .._files import atomic_path, partial_paths, write_json, write_text
from ..errors import CheckpointError, ConfigError, WriteError
from .config import TrainConfig
from .folder_lock import FolderLock
from .run_state import previous_path

_WEIGHTS = "checkpoints"


class RunFolder:
    """Names of the files of a run.

    Args:
        root: the folder, as given by `--out`.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.config = self.root / "config.json"
        self.log = self.root / "log.jsonl"
        self.labels = self.root / "labels.h5"
        self.checkpoint = self.root / _WEIGHTS / "last.safetensors"
        self.student = self.root / _WEIGHTS / "student.safetensors"
        self.teacher = self.root / _WEIGHTS / "teacher.safetensors"
        self.results = self.root / "results.json"
        self.per_image = self.root / "per_image.csv"
        self.curves = self.root / "curves.png"
        self.overlays = self.root / "overlays.png"
        self.gallery = self.root / "labels.png"
        self._lock = FolderLock(self.root)

    @classmethod
    def of(cls, path: str | Path) -> RunFolder:
        """The run at `path`: its folder, a file in it, or one of its weight files."""
        path = Path(path)
        if not path.is_file():
            return cls(path)
        parent = path.absolute().parent
        return cls(parent.parent if parent.name == _WEIGHTS else parent)

    def weights(self, role: str) -> Path:
        """The weight file of a role, "student" or "teacher"."""
        return self.student if role == "student" else self.teacher

    def acquire(self) -> None:
        """Take the folder for this process.

        Raises:
            CheckpointError: another one trains in it. WriteError: it cannot be written.
        """
        self._lock.take()
        self._remove_partial_files()

    def release(self) -> None:
        """Give the folder back."""
        self._lock.release()

    def clear(self) -> None:
        """Remove the files of the run that lies here, the configuration last; other files stay."""
        try:
            for path in self._files():
                path.unlink(missing_ok=True)
        except OSError as error:
            raise WriteError("the earlier run cannot be removed", where=path, found=error) from error

    def _files(self) -> tuple[Path, ...]:
        """All files of a run, the configuration last."""
        before = previous_path(self.checkpoint)
        files = (self.log, self.labels, self.checkpoint, before, self.student, self.teacher, self.results)
        pictures = (self.per_image, self.curves, self.overlays, self.gallery)
        return (*files, *pictures, self.config)

    def _remove_partial_files(self) -> None:
        """Remove what a killed process was writing. Only for the owner of the folder: nobody else writes."""
        for path in self._files():
            for partial in partial_paths(path):
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)

    def check_free(self) -> None:
        """Raise `CheckpointError` if there is a run here already."""
        if self.config.exists():
            raise CheckpointError(
                "the folder already holds a run",
                where=self.root,
                fix="add --resume to go on with it, or choose another --out",
            )

    def start(self, config: TrainConfig) -> None:
        """Begin a new run here. Raises `CheckpointError` if there is one already."""
        self.check_free()
        self.clear()  # what is left of a run whose configuration was removed must not be taken for this one's
        write_json(self.config, config.to_dict())
        write_text(self.log, "")

    def keep_config(self, config: TrainConfig) -> None:
        """Put `config` in the place of that of the run that lies here, which can go on with it.

        Raises:
            CheckpointError: another process trains in the folder. WriteError: it cannot be written.
        """
        self.acquire()
        try:
            write_json(self.config, config.to_dict())
        finally:
            self.release()

    def read_config(self) -> TrainConfig:
        """The configuration of the run that lies here.

        Raises:
            CheckpointError: there is none, or it is damaged.
            ConfigError: its values are not ones that this version knows.
        """
        try:
            return TrainConfig.from_dict(json.loads(self.config.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CheckpointError(
                "there is no run in this folder",
                where=self.root,
                expected="a folder that `istd train --out` wrote",
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError("the configuration is damaged", where=self.config, found=error) from error
        except ConfigError as error:
            raise ConfigError(
                error.problem,
                where=self.config,
                found=error.found,
                expected=error.expected,
                fix=error.fix or "use the version that wrote it, or start a new run",
            ) from error


class JsonLines:
    """An append-only log of one JSON object a line, which can be cut back to an earlier length."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = sum(1 for _ in read_lines(path)) if path.exists() else 0

    def append(self, record: dict[str, Any]) -> None:
        """Add `record` as one line."""
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record, allow_nan=False) + "\n")
                stream.flush()
                os.fsync(stream.fileno())  # a checkpoint that counts this line must not outlive it
        except OSError as error:
            raise WriteError(
                "the log could not be written",
                where=self.path,
                found=error,
                fix="free some space; --resume goes on from the last checkpoint",
            ) from error
        self.count += 1

    def cut(self, count: int, report: Callable[[str], None] | None = None) -> None:
        """Keep the first `count` lines: what a resumed run has really done.

        Args:
            count: how many.
            report: called with a sentence if some of them cannot be read any more; the curves lack them.
        """
        lines = list(read_lines(self.path))[:count]
        if len(lines) < count and report is not None:
            report(f"{self.path}: the log is damaged; the curves lack epochs {len(lines) + 1} to {count}")
        with atomic_path(self.path) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        self.count = len(lines)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a log; a last line cut off by a crash is left out, and what is not a record.

    Raises:
        CheckpointError: the log cannot be opened.
    """
    if not path.is_file():
        return
    try:
        stream = path.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CheckpointError("the log cannot be read", where=path, found=error) from error
    with stream:
        for line in stream:
            if not line.endswith("\n"):
                return
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                return
            if isinstance(record, dict):
                yield record
