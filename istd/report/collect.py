"""What a report says of one run, read from its folder; nothing in the folder is trusted."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_PICTURE = 20 * 2**20
_PICTURES = (
    ("curves.png", "Training"),
    ("overlays.png", "What the student finds"),
    ("labels.png", "How the labels grew"),
)
METRICS = (("iou", "IoU"), ("niou", "nIoU"), ("pd", "Pd"), ("fa", "Fa ·1e-6"), ("f1", "F1"))


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

    def rows(self) -> list[dict[str, Any]]:
        """One row for each role and split that was evaluated: role, split and the metrics as text."""
        found = []
        for split, roles in (self.results or {"metrics": {}})["metrics"].items():
            for role, values in roles.items():
                cells = [_cell(name, values.get(name)) for name, _ in METRICS]
                found.append({"split": split, "role": role, "cells": cells})
        return found


def _cell(name: str, value: Any) -> str:
    if not isinstance(value, int | float):
        return "–"
    return f"{value * 1e6:.1f}" if name == "fa" else f"{value:.4f}"


def read_run(folder: str | Path) -> RunSummary:
    """Read a run folder.

    Raises:
        CheckpointError: there is no run, or its files are damaged.
    """
    root = Path(folder)
    config = _read_json(root / "config.json", ("method", "backbone", "seed"))
    if config is None:
        raise CheckpointError(
            "there is no run in this folder", where=root, expected="a folder that `istd train --out` wrote"
        )
    results = _read_json(
        root / "results.json", ("metrics", "convention", "split_hash", "config", "selection", "images")
    )
    if results is not None:
        _check_results(root / "results.json", results)
    pictures = []
    for name, title in _PICTURES:
        address = _picture(root / name)
        if address is not None:
            pictures.append((title, address))
    return RunSummary(str(folder), results, config, _read_epochs(root / "log.jsonl"), pictures)


def _read_json(path: Path, needed: tuple[str, ...]) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError("the file of the run is damaged", where=path, found=error) from error
    missing = [key for key in needed if not isinstance(value, dict) or key not in value]
    if missing:
        raise CheckpointError(
            "the file of the run is damaged",
            where=path,
            found=f"without {', '.join(missing)}",
            expected="what `istd train` wrote",
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
        isinstance(one, dict) and all(isinstance(one.get(name), int | float) for name, _ in METRICS)
        for one in scores
    ):
        wrong.append("metrics")
    if wrong:
        raise CheckpointError(
            "the file of the run is damaged",
            where=path,
            found=f"{', '.join(wrong)} cannot be understood",
            expected="what `istd train` wrote",
        )


def _read_epochs(path: Path) -> list[dict[str, Any]]:
    """The epochs of a log; a line that is cut off or foreign is left out."""
    records = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if (
            isinstance(record, dict)
            and record.get("event") == "epoch"
            and isinstance(record.get("epoch"), int)
        ):
            records.append(record)
    return records


def _picture(path: Path) -> str | None:
    """A PNG as a data address; None where there is none that can be shown."""
    try:
        if path.stat().st_size > _MAX_PICTURE:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    return f"data:image/png;base64,{base64.b64encode(data).decode()}" if data.startswith(_PNG) else None
