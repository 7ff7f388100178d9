"""Medians, ratios and targets, as JSON and as a table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from istd._files import write_text

from .timing import Row

TARGETS = {
    "inner step": 2.5,
    "outer step": 4.0,
    "evolution's post-processing, 1080p, 6 targets": 20.0,
    "metrics of an image, clean predictions": 5.0,
    "metrics of an image, noisy predictions": 5.0,
    "whole epoch": 2.5,
}
"""By how much the reference's time is to be larger; on a GPU an epoch's is 5."""
EPOCH_ON_GPU = 5.0

# An epoch of the reference's schedule on SIRST v1 (213 training images, a fifth of them held out).
_TRAINED, _HELD_OUT, _EVERY, _OUTER = 170, 43, 5, 4
BUSY = 0.1
"""Share of the machine in use before a cell above which its times are not to be trusted."""


@dataclass
class Cell:
    """A cell under one allocator setting, and what came out.

    Attributes:
        status: "ok" or "failed", then `reason` says why.
        busy: share of the machine in use before it began.
        commit: of the code that was measured; empty if unknown.
        ceiling: of the cell of that name, see `ceiling.Ceiling`.
    """

    cell: str
    allocator: str
    status: str = "ok"
    reason: str = ""
    rows: list[Row] = field(default_factory=list)
    busy: float | None = None
    commit: str = ""
    ceiling: dict[str, Any] | None = None


@dataclass
class Line:
    """One line of the table; milliseconds are medians, spreads half of the middle half's width, relative.

    Attributes:
        ratio: the reference's over ours; None where there is one side only, or the work is not the same.
        shipped: the same with ours tuned, as its commands run, and the reference untuned, as it runs.
        met: whether the ratio reaches the target, within this allocator setting; None without a target.
        distance: of the results, see `Contest.check`; `equal` is whether it is within its bound.
    """

    allocator: str
    name: str
    ours_ms: float | None
    reference_ms: float | None
    ours_spread: float = 0.0
    reference_spread: float = 0.0
    rounds: int = 0
    ratio: float | None = None
    shipped: float | None = None
    target: float | None = None
    met: bool | None = None
    distance: float | None = None
    equal: bool | None = None
    note: str = ""


def lines(cells: Iterable[Cell], batch: int, device: str) -> list[Line]:
    """All lines, and an epoch put together from their medians."""
    cells = list(cells)
    found: list[Line] = []
    for allocator in dict.fromkeys(cell.allocator for cell in cells):
        own = [_line(row, allocator) for cell in cells if cell.allocator == allocator for row in cell.rows]
        whole = _epoch(own, allocator, batch)
        found += own + ([whole] if whole else [])
    for line in found:
        target = EPOCH_ON_GPU if line.name == "whole epoch" and device != "cpu" else TARGETS.get(line.name)
        line.target = target
        line.met = None if target is None or line.ratio is None else line.ratio >= target
    _shipped(found)
    return found


def _line(row: Row, allocator: str) -> Line:
    ours, reference = _median(row.ours), _median(row.reference)
    return Line(
        allocator=allocator,
        name=row.name,
        ours_ms=ours,
        reference_ms=reference,
        ours_spread=_spread(row.ours),
        reference_spread=_spread(row.reference),
        rounds=len(row.ours or row.reference),
        ratio=reference / ours if ours and reference and not row.extra else None,
        distance=row.distance,
        equal=None if row.distance is None else row.distance <= row.bound,
        note=row.note,
    )


def _epoch(own: list[Line], allocator: str, batch: int) -> Line | None:
    """Inner steps, and this epoch's share of the outer steps, the evolution and the evaluations."""
    share = {
        "a step of an epoch": _TRAINED // batch,
        "outer step": _OUTER / _EVERY,
        "evolution of an image, teacher included": (_TRAINED + _HELD_OUT) / _EVERY,
        "evaluation of an image, student": _HELD_OUT,
        "evaluation of an image, teacher": _HELD_OUT,
    }
    by_name = {line.name: line for line in own}
    if not share.keys() <= by_name.keys():
        return None
    sums: list[float | None] = []
    for side in ("ours_ms", "reference_ms"):
        parts = [getattr(by_name[name], side) for name in share]
        sums.append(
            None
            if None in parts
            else sum(count * part for count, part in zip(share.values(), parts, strict=True))
        )
    ours, reference = sums
    if ours is None:
        return None
    said = " + ".join(f"{count:g} × {name}" for name, count in share.items())
    ratio = None if reference is None else reference / ours
    return Line(allocator, "whole epoch", ours, reference, ratio=ratio, note=f"of medians: {said}")


def _shipped(found: list[Line]) -> None:
    untuned = {line.name: line.reference_ms for line in found if line.allocator == "default"}
    for line in found:
        theirs = untuned.get(line.name)
        if line.allocator == "tuned" and line.ratio is not None and theirs and line.ours_ms:
            line.shipped = theirs / line.ours_ms


def write_results(out: Path, cells: list[Cell], settings: dict[str, Any], now: dict[str, Any]) -> list[Line]:
    """Write results.json and results.md; the lines of the table. `now`: provenance, and the load."""
    found = lines(cells, settings["batch"], settings["device"])
    # Paths of this machine are nobody's business.
    settings = {**settings, **{key: Path(settings[key]).name for key in ("data", "reference")}}
    content = {
        **now,
        "settings": settings,
        "lines": [asdict(line) for line in found],
        "cells": [asdict(cell) for cell in cells],
    }
    write_text(out / "results.json", json.dumps(content, indent=1))
    write_text(out / "results.md", markdown(found, cells, settings, now))
    return found


def markdown(found: list[Line], cells: list[Cell], settings: dict[str, Any], now: dict[str, Any]) -> str:
    """The table, one part per allocator setting, and what it was measured on."""
    about = {**now["machine"], "load": now["load"], **now["versions"], **now["code"], **settings}
    text = ["# Speed", "", f"`{now['command']}`", ""]
    text += ["; ".join(f"{key}: {value}" for key, value in about.items()), ""]
    for allocator in dict.fromkeys(line.allocator for line in found):
        text += [f"## Allocator: {allocator}, on both sides", ""]
        text += [
            "| what | reference ms | ours ms | ratio | as shipped | target | met? | results differ by |",
            "| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
        ]
        text += [_row(line) for line in found if line.allocator == allocator]
        notes = [
            f"- {line.name}: {line.note}." for line in found if line.allocator == allocator and line.note
        ]
        text += ["", *notes, ""]
    for cell in cells:
        if cell.status != "ok":
            text.append(f"- failed: {cell.cell} ({cell.allocator}): {cell.reason}")
        elif cell.busy is not None and cell.busy > BUSY:
            text.append(
                f"- {cell.busy:.0%} of the machine in use before {cell.cell} ({cell.allocator}), not quiet"
            )
        if cell.commit and cell.commit != now["code"]["commit"]:  # kept by --resume
            text.append(f"- {cell.cell} ({cell.allocator}) was measured on code {cell.commit[:10]}")
        if cell.ceiling:
            text += _ceiling(cell.ceiling, cell.allocator)
    text += [
        "",
        "Medians; ± is half of the interquartile range. *Ratio*: reference / ours, both under this allocator "
        "setting. *As shipped*: reference untuned / ours tuned, which is how either starts by itself. Rows "
        "without a ratio do other work than the reference, or have no counterpart.",
        "",
    ]
    return "\n".join(text)


def _ceiling(ceiling: dict[str, Any], allocator: str) -> list[str]:
    """What the machine can do at most, and what is reached."""
    products = ", ".join(f"{rate:.4g} GFLOP/s in {name}" for name, rate in ceiling["products"].items())
    return [
        "",
        f"## Ceiling, allocator {allocator}",
        "",
        f"A large matrix product: {products}; a large copy: {ceiling['copy_gb_s']:.3g} GB/s, read and "
        "written. Only the FLOPs of convolutions and products are counted below.",
        "",
        "| what | precision | GFLOP | ms | GFLOP/s | of the ceiling |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {one['name']} | {one['precision']} | {one['gflop']:.4g} | {one['ms']:.4g} "
            f"| {one['gflop_s']:.4g} | {one['fraction']:.0%} |"
            for one in ceiling["reached"]
        ),
        "",
    ]


def _row(line: Line) -> str:
    def ms(value: float | None, spread: float) -> str:
        return "" if value is None else f"{value:.4g}" + (f" ± {100 * spread:.0f} %" if spread else "")

    met = "" if line.met is None else "yes" if line.met else "no"
    if line.shipped is not None and line.target is not None:
        met += f"; as shipped {'yes' if line.shipped >= line.target else 'no'}"
    apart = "" if line.distance is None else f"{line.distance:.1e}{'' if line.equal else ' (NOT equal)'}"
    columns = (
        line.name,
        ms(line.reference_ms, line.reference_spread),
        ms(line.ours_ms, line.ours_spread),
        "" if line.ratio is None else f"{line.ratio:.2f} ×",
        "" if line.shipped is None else f"{line.shipped:.2f} ×",
        "" if line.target is None else f"≥ {line.target:g} ×",
        met,
        apart,
    )
    return "| " + " | ".join(columns) + " |"


def _median(seconds: list[float]) -> float | None:
    return 1e3 * statistics.median(seconds) if seconds else None


def _spread(seconds: list[float]) -> float:
    if len(seconds) < 3:
        return 0.0
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return (high - low) / 2 / middle
