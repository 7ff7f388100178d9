"""The page itself: a template with everything in it, no script, nothing loaded from anywhere."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from .._files import write_text
from .._metric_columns import METRIC_COLUMNS, is_number, metric_spread
from .._provenance import code_version
from ..errors import ConfigError
from ..viz._figure import BLUE, GREEN, GREY, ORANGE, RED, new_figure
from .collect import RunSummary, read_run

_COLORS = (BLUE, ORANGE, GREEN, RED, GREY, "#CC79A7", "#56B4E9", "#F0E442")
_CURVES = (
    ("loss", "Training loss"),
    ("val_student_iou", "Student IoU, validation"),
    ("val_student_pd", "Student Pd, validation"),
    ("label_iou_train", "Label IoU with the masks, training"),
)


def write_report(
    runs: Sequence[str | Path], path: str | Path, title: str = "istd report", *, command: str | None = None
) -> None:
    """Read run folders and write the page, whole or not at all; `command` is noted as what makes it.

    Raises:
        ConfigError: no run.
        CheckpointError: a folder without a run, or with a damaged one.
        WriteError: the disk refused.
    """
    if not runs:
        raise ConfigError("a report needs at least one run folder")
    write_text(path, render_report([read_run(run) for run in runs], title, command))


def render_report(runs: Sequence[RunSummary], title: str = "istd report", command: str | None = None) -> str:
    """The page as HTML. Every text from the runs is escaped."""
    environment = Environment(
        loader=PackageLoader("istd.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    settings = sorted({key for run in runs for key in run.config})
    differ = [key for key in settings if len({str(run.config.get(key)) for run in runs}) > 1]
    return environment.get_template("page.html.jinja").render(
        title=title,
        runs=runs,
        headings=list(METRIC_COLUMNS.values()),
        seeds=over_seeds(runs),
        warnings=list_warnings(runs),
        curves=_curves(runs),
        settings=[key for key in settings if key not in differ],
        differ=differ,
        command=command,
        code=code_version(),
    )


def list_warnings(runs: Sequence[RunSummary]) -> list[str]:
    """What a reader must know before comparing the figures."""
    done = [run for run in runs if run.results is not None]
    found = [f"{run.name} has not finished: it has no figures" for run in runs if run.results is None]
    if len({run.protocol[0] for run in done}) > 1:
        found.append("the runs were trained or tested on different splits: their figures do not compare")
    if len({run.protocol[1] for run in done}) > 1:
        found.append("the runs were measured in different metric conventions: their figures do not compare")
    for run in done:
        vfm = (run.results or {}).get("vfm")
        if isinstance(vfm, dict) and vfm.get("random"):
            found.append(f"{run.name}: the teacher's foundation model had RANDOM weights")
    return found


def over_seeds(runs: Sequence[RunSummary]) -> list[dict[str, Any]]:
    """Mean and standard deviation where runs differ in nothing but the seed; needs two of a kind."""
    groups: dict[str, list[RunSummary]] = defaultdict(list)
    for run in runs:
        if run.results is not None:
            same = {key: value for key, value in run.config.items() if key not in ("seed", "device")}
            groups[str((sorted(same.items(), key=str), run.protocol))].append(run)
    rows: list[dict[str, Any]] = []
    for members in groups.values():
        if len({member.config["seed"] for member in members}) < 2:
            continue
        first = (members[0].results or {})["metrics"]
        for split, roles in first.items():
            for role in roles:
                values = [(m.results or {})["metrics"].get(split, {}).get(role) for m in members]
                if all(value is not None for value in values):
                    cells = [metric_spread(key, [value[key] for value in values]) for key in METRIC_COLUMNS]
                    rows.append(
                        {
                            "method": members[0].config["method"],
                            "backbone": members[0].config["backbone"],
                            "split": split,
                            "role": role,
                            "seeds": len(members),
                            "cells": cells,
                        }
                    )
    return rows


def _curves(runs: Sequence[RunSummary]) -> str:
    """The curves of all runs in one PNG, as a data address."""
    figure = new_figure(11, 6.4)
    for axes, (key, title) in zip(figure.subplots(2, 2).ravel(), _CURVES, strict=True):
        for i, run in enumerate(runs):
            points = [
                (record["epoch"] + 1, record[key]) for record in run.epochs if is_number(record.get(key))
            ]
            if points:
                # A name is plain text here: a dollar sign would begin a formula.
                label = run.name.replace("$", r"\$")
                axes.plot(
                    *zip(*points, strict=True), color=_COLORS[i % len(_COLORS)], label=label, linewidth=1.3
                )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        if axes.lines:
            axes.legend(fontsize=7)
        else:
            axes.text(0.5, 0.5, "not part of these runs", ha="center", va="center", transform=axes.transAxes)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
