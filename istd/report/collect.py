"""What a report says of one run, read from its folder; nothing in the folder is trusted."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._files import is_whole
from .._metric_columns import METRIC_COLUMNS, is_number, metric_cell
from ..engine import RunFolder, read_lines
from ..errors import CheckpointError

_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_PICTURE = 20 * 2**20


@dataclass(frozen=True)
class RunSummary:
    """One run.

    Attributes:
        folder: as it was given.
        results: of `results.json`; None for a run that has not finished.
        config: its settings.
        epochs: the log's records of epochs.
        pictures: pairs (title, PNG as a data address).
    """

    folder: str
    results: dict[str, Any] | None
    config: dict[str, Any]
    epochs: list[dict[str, Any]]
    pictures: list[tuple[str, str]]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return Path(self.folder).resolve().name

    @property
    def protocol(self) -> tuple[str, str]:
        """(split hash, metric convention as text): figures compare only where both are equal."""
        if self.results is None:
            return "", ""
        return str(self.results["split_hash"]), json.dumps(self.results["convention"], sort_keys=True)

    def recipe(self) -> list[tuple[str, str]]:
        """How to make the run again: pairs (what, text); empty for runs that did not note it."""
        results = self.results or {}
        pairs = [("command", str(results["command"]))] if "command" in results else []
        for key in ("code", "versions", "machine", "determinism"):
            values = results.get(key)
            if isinstance(values, dict):
                texts = [f"{name} {value}" for name, value in values.items() if value not in (None, {})]
                pairs.append((key, ", ".join(texts)))
        more = ("threads", "device", "data_hash")
        return pairs + [(key, str(results[key])) for key in more if key in results]

    def rows(self) -> list[dict[str, Any]]:
        """One row for each role and split that was evaluated: role, split and the metrics as text."""
        found = []
        for split, roles in (self.results or {"metrics": {}})["metrics"].items():
            for role, values in roles.items():
                cells = [metric_cell(name, values.get(name)) for name in METRIC_COLUMNS]
                found.append({"split": split, "role": role, "cells": cells})
        return found


def read_run(folder: str | Path) -> RunSummary:
    """Read a run folder.

    Raises:
        CheckpointError: there is no run, or its files are damaged.
    """
    run = RunFolder(folder)
    config = _read_json(run.config, ("method", "backbone", "seed"))
    if config is None:
        raise CheckpointError(
            "there is no run in this folder",
            where=run.root,
            expected="a folder that `istd train --out` wrote",
        )
    if not all(isinstance(config[name], str | int) for name in ("method", "backbone", "seed")):
        raise CheckpointError(
            "the file of the run is damaged",
            where=run.config,
            found="method, backbone or seed cannot be understood",
            expected="what `istd train` wrote",
        )
    results = _read_json(
        run.results, ("metrics", "convention", "split_hash", "config", "selection", "images")
    )
    if results is not None:
        _check_results(run.results, results)
    pictures = []
    for path, title in (
        (run.curves, "Training"),
        (run.overlays, "What the student finds"),
        (run.gallery, "How the labels grew"),
    ):
        address = _picture(path)
        if address is not None:
            pictures.append((title, address))
    epochs = [
        record
        for record in read_lines(run.log)
        if record.get("event") == "epoch" and is_number(record.get("epoch"))
    ]
    return RunSummary(str(folder), results, config, epochs, pictures)


def _read_json(path: Path, needed: tuple[str, ...]) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError("the file of the run is damaged", where=path, found=error) from error
    missing = [key for key in needed if not isinstance(value, dict) or key not in value]
    if missing:
        raise CheckpointError(
            "the file of the run is damaged",
            where=path,
            found=f"without {', '.join(missing)}",
            expected="what `istd train` wrote",
        )
    version = value.get("version")
    if not is_whole(value) or (isinstance(version, int) and version > 1 and "sha256" not in value):
        raise CheckpointError(
            "the file of the run is damaged or was edited",
            where=path,
            found="figures that do not match their checksum",
            fix="run `istd train --resume` on the finished run, which writes its results again",
        )
    return value


def _check_results(path: Path, results: dict[str, Any]) -> None:
    """Raise `CheckpointError` where the parts that the page shows are not what they should be."""
    needed = {"images": ("train", "val", "test"), "selection": ("rule", "epoch"), "convention": ()}
    wrong = [
        name
        for name, keys in needed.items()
        if not isinstance(results[name], dict) or any(key not in results[name] for key in keys)
    ]
    metrics = results["metrics"]
    figures = list(metrics.values()) if isinstance(metrics, dict) else [None]
    scores = [one for roles in figures for one in (roles.values() if isinstance(roles, dict) else [None])]
    if not all(
        isinstance(one, dict) and all(is_number(one.get(name)) for name in METRIC_COLUMNS) for one in scores
    ):
        wrong.append("metrics")
    if wrong:
        raise CheckpointError(
            "the file of the run is damaged",
            where=path,
            found=f"{', '.join(wrong)} cannot be understood",
            expected="what `istd train` wrote",
        )


def _picture(path: Path) -> str | None:
    """A PNG as a data address; None where there is none that can be shown."""
    try:
        if path.stat().st_size > _MAX_PICTURE:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    return f"data:image/png;base64,{base64.b64encode(data).decode()}" if data.startswith(_PNG) else None
