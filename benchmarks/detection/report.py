"""Everything that was measured, as data, as a page, and on the screen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from istd._files import write_json, write_text
from istd._provenance import provenance

from . import aggregate, tables
from .protocol import protocol
from .published import PUBLISHED
from .store import Result
from .tables import Table


@dataclass(frozen=True)
class Report:
    """The tables and what they are made of.

    Attributes:
        protocol: sentences.
        tables: in order.
        facts: sentences on the order of the methods.
        data: all of it, for `results.json`.
    """

    protocol: list[str]
    tables: list[Table]
    facts: list[str]
    data: dict[str, Any]


def make_report(results: Sequence[Result], command: str, left_out: int) -> Report:
    """Aggregate cells, done, failed and pending.

    Args:
        results: the cells.
        command: that was called.
        left_out: stored cells of other settings, which are not among them.
    """
    results = [_shareable(one) for one in results]
    lines = aggregate.main_lines(results)
    axes = aggregate.axis_lines(results)
    groups = aggregate.group_lines(results)
    order = aggregate.order(lines)
    sentences = protocol(results, command)
    if left_out:
        sentences.append(f"{left_out} stored cells were made with other settings and are left out.")
    shown = [tables.main_table(lines), tables.group_table(groups)]
    for name, of_axis in axes.items():
        shown += [tables.axis_table(name, of_axis), tables.probe_table(name, of_axis)]
    shown += [tables.published_table(lines), tables.failures(results)]
    data = {
        "protocol": sentences,
        **provenance(command),
        "lines": [line.to_dict() for line in lines],
        "groups": groups,
        "ablations": {name: [line.to_dict() for line in of_axis] for name, of_axis in axes.items()},
        "order": order,
        "published": {
            source: {f"{backbone}, {row}": vars(one) for (backbone, row), one in figures.items()}
            for source, figures in PUBLISHED.items()
        },
        "cells": results,
    }
    return Report(sentences, [table for table in shown if table.rows], [_fact(one) for one in order], data)


def write_report(report: Report, out: Path, title: str) -> None:
    """`results.json` and `results.md`."""
    write_json(out / "results.json", report.data)
    lines = [f"# {title}", ""]
    for table in report.tables[:1]:
        lines += _markdown(table)
    if report.facts:
        lines += ["## The order student > pal > lesps", "", *(f"- {fact}" for fact in report.facts), ""]
    lines += ["## Protocol", "", *(f"- {sentence}" for sentence in report.protocol), ""]
    for table in report.tables[1:]:
        lines += _markdown(table)
    write_text(out / "results.md", "\n".join(lines).rstrip() + "\n")


def print_report(report: Report, console: Console) -> None:
    """All tables but the published one, which has a column in the first."""
    for table in report.tables:
        if table.title.startswith("Published"):
            continue
        shown = RichTable(title=escape(table.title), title_justify="left", caption=escape(table.note))
        for index, name in enumerate(table.columns):
            shown.add_column(escape(name), justify="left" if index < 2 else "right")
        before = ""
        for row in table.rows:
            if before and row[0] != before:
                shown.add_section()
            shown.add_row(*(escape(cell) for cell in row))
            before = row[0]
        console.print(shown)
    for fact in report.facts:
        console.print(escape(fact))
    for sentence in report.protocol:
        console.print(f"[dim]{escape(sentence)}[/dim]")


def _markdown(table: Table) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "| --- | --- |" + " ---: |" * (len(table.columns) - 2)
    lines = [f"## {table.title}", "", line(table.columns), rule, *map(line, table.rows), ""]
    return [*lines, table.note, ""] if table.note else lines


def _fact(order: dict[str, Any]) -> str:
    differences = ", ".join(
        f"seed {seed}: {100 * value:+.1f}" for seed, value in order["differences"].items()
    )
    verdict = "holds" if order["holds"] else "does not hold"
    if order["holds"]:
        verdict += " for every seed" if order["holds_for_every_seed"] else " on average, not for every seed"
    spread = "" if order["std"] is None else f" ± {100 * order['std']:.1f}"
    return (
        f"{order['backbone']}: {order['better']} > {order['worse']} {verdict}; IoU differences "
        f"{differences}; mean {100 * order['mean']:+.1f}{spread} points"
    )


_PATH = re.compile(r"(?<![\w.~])~?(?:/[^\s/:'\"]+)+/([^\s/:'\"]+)")


def _shareable(result: Result) -> Result:
    """Without paths of this machine: the dataset by its name, other files by theirs."""
    result = {**result, "reason": _PATH.sub(r"\1", result["reason"])}
    if "request" not in result:
        return result
    config = {**result["request"]["config"]}
    config["data"] = Path(config["data"]).name
    return {**result, "request": {**result["request"], "config": config}}
