"""The tables, as text cells, for Markdown and the terminal alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .aggregate import Line, Spread
from .axes import AXES
from .published import PAL_README, PAPER, PUBLISHED
from .store import Result


@dataclass(frozen=True)
class Table:
    """A title, columns, rows of text (as wide as the columns), and a note below."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


def main_table(lines: Sequence[Line]) -> Table:
    """The shape of the paper's Table 1."""
    columns = (
        "backbone", "method", "n", "IoU", "nIoU", "Pd", "Fa ·1e-6", "% of full", "label IoU", "seconds",
        "CPU s", "published ¹ SIRST3", "published ² SIRST v1",
    )  # fmt: skip
    rows = []
    for line in lines:
        key = (line.backbone, line.name)
        rows.append(
            (
                line.backbone,
                line.name + problem(line),
                str(len(line.seeds)),
                *_metrics(line),
                "" if line.ratio is None else f"{100 * line.ratio:.1f}",
                _labels(line),
                show(line, "seconds", 1, ".0f"),
                show(line, "cpu_seconds", 1, ".0f"),
                *(_published(source, key) for source in (PAPER, PAL_README)),
            )
        )
    return Table(
        "Detection",
        columns,
        rows,
        "IoU, nIoU, Pd in percent on the test split, mean ± sample standard deviation over n seeds. % of "
        "full: mean IoU over that of full supervision of the same network. label IoU: of the training labels "
        "in use with the masks, at the start → at the end. seconds, CPU s: of one run's training with "
        "validation. "
        f"¹ published, other protocol: IoU, {PAPER}. ² published, other protocol: IoU, {PAL_README}.",
    )


def published_table(lines: Sequence[Line]) -> Table:
    """What others published for the lines of the main table."""
    rows = []
    for source, figures in PUBLISHED.items():
        for line in lines:
            one = figures.get((line.backbone, line.name))
            if one is not None:
                values = (one.iou, one.niou, one.pd, one.fa)
                shown = ("" if value is None else f"{value:.2f}" for value in values)
                rows.append((source, line.backbone, line.name, *shown))
    return Table(
        "Published, other protocol",
        ("source", "backbone", "method", "IoU", "nIoU", "Pd", "Fa ·1e-6"),
        rows,
        "Other images, splits, schedules and frozen models than above: a difference to our figures says "
        "nothing.",
    )


def group_table(groups: Sequence[dict[str, Any]]) -> Table:
    """By target group: Pd and mean IoU of a target."""
    names = list(dict.fromkeys(entry["group"] for entry in groups))
    counts = {entry["group"]: entry["targets"] for entry in groups}
    columns = ["backbone", "method"]
    for name in names:
        columns += [f"{name} ({counts[name]}) Pd", "target IoU"]
    rows = []
    for backbone, method in dict.fromkeys((entry["backbone"], entry["name"]) for entry in groups):
        of_line = {e["group"]: e for e in groups if (e["backbone"], e["name"]) == (backbone, method)}
        cells = [
            _spread(Spread(tuple(of_line[name][key]["values"])), 100, ".1f") if name in of_line else ""
            for name in names
            for key in ("pd", "target_iou")
        ]
        rows.append((backbone, method, *cells))
    return Table(
        "By target group",
        tuple(columns),
        rows,
        "Test split; in brackets the number of targets; groups as in `istd.metrics.groups`. target IoU: mean "
        "over the targets of the IoU with their match, 0 for a missed one.",
    )


def axis_table(name: str, lines: Sequence[Line]) -> Table:
    """One ablation of `semantic-prior`; the student's metrics."""
    columns = (
        "backbone", name, "n", "IoU", "nIoU", "Pd", "Fa ·1e-6", "% of full", "teacher IoU", "label IoU",
        "seconds", "CPU s", "peak MB",
    )  # fmt: skip
    rows = [
        (
            line.backbone,
            line.name + problem(line),
            str(len(line.seeds)),
            *_metrics(line),
            "" if line.ratio is None else f"{100 * line.ratio:.1f}",
            show(line, "teacher_iou", 100, ".1f"),
            _labels(line),
            *(show(line, key, 1, ".0f") for key in ("seconds", "cpu_seconds", "peak_mb")),
        )
        for line in lines
    ]
    return Table(
        f"Ablation: {AXES[name].question if name in AXES else name}",
        columns,
        rows,
        "The student, as in the main table but for this one setting. % of full: over the seeds that both "
        "have, so lines of other seeds do not compare. peak MB: resident memory, with that of the probes "
        "where there were any; what probes cost is not in the seconds.",
    )


def probe_table(name: str, lines: Sequence[Line]) -> Table:
    """The hypergradients of an ablation beside exact ones; no row where none was probed."""
    probed = [line for line in lines if any(key.startswith("cosine_") for key in line.values)]
    found = {
        int(key.removeprefix("cosine_"))
        for line in probed
        for key in line.values
        if key.startswith("cosine_")
    }
    steps = sorted(found)
    columns = ["backbone", name, "n"]
    for t in steps:
        columns += [f"cosine, T = {t}", f"norm ratio, T = {t}"]
    columns += ["ms", "MB", "IHVP residual", "negative curvature"]
    rows = []
    for line in probed:
        row = [line.backbone, line.name, str(len(line.seeds))]
        for t in steps:
            row += [show(line, f"cosine_{t}", 1, ".2f"), show(line, f"norm_ratio_{t}", 1, ".2g")]
        row += [
            show(line, "hypergradient_seconds", 1e3, ".0f"),
            show(line, "hypergradient_mb", 1, ".0f"),
            show(line, "ihvp_residual", 1, ".1e"),
            show(line, "ihvp_negative_curvature", 100, ".0f", " %"),
        ]
        rows.append(tuple(row))
    return Table(
        f"Hypergradients of these runs beside exact ones: {name}",
        tuple(columns),
        rows,
        "cosine, norm ratio: of the method's hypergradient to the exact one through T inner steps "
        "(`bilevel.Unrolled(T)`, same point, same batches, the run's own losses), mean over a run's probes. "
        "ms, MB: of one hypergradient; live tensors at the peak. negative curvature: share of the linear "
        "solves that met it.",
    )


def failures(results: Sequence[Result]) -> Table:
    """Cells without a result, and why."""
    rows: list[tuple[str, ...]] = [
        (one["label"], one["status"], one["reason"]) for one in results if one["status"] != "ok"
    ]
    return Table("Cells without a result", ("cell", "status", "reason"), rows)


def _published(source: str, key: tuple[str, str]) -> str:
    one = PUBLISHED[source].get(key)
    return "" if one is None else f"{one.iou:.2f}"


def problem(line: Line) -> str:
    """What is missing in a line, in brackets; empty if nothing is."""
    parts = [f"{len(line.failed)} failed"] if line.failed else []
    parts += [f"{line.pending} pending"] if line.pending else []
    return f" ({', '.join(parts)})" if parts else ""


def show(line: Line, key: str, factor: float, form: str, unit: str = "") -> str:
    """Mean ± deviation of a value; empty where there is none."""
    return _spread(line.values[key], factor, form) + unit if key in line.values else ""


def _spread(spread: Spread, factor: float, form: str) -> str:
    mean = format(factor * spread.mean, form)
    return mean if spread.std is None else f"{mean} ± {format(factor * spread.std, form)}"


def _metrics(line: Line) -> tuple[str, ...]:
    percent = tuple(show(line, key, 100, ".1f") for key in ("iou", "niou", "pd"))
    return (*percent, show(line, "fa", 1e6, ".1f"))


def _labels(line: Line) -> str:
    start, end = (show(line, key, 100, ".1f") for key in ("label_start", "label_end"))
    return f"{start} → {end}" if start else ""
