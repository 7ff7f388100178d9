"""Pictures: accuracy against cost, labels over epochs, spread over seeds, hypergradients over epochs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from istd.viz._figure import BLUE, GREEN, GREY, ORANGE, RED, new_figure, save_figure

from .aggregate import STUDENT, TEACHER, axis_lines, is_ok, main_lines
from .cells import MAIN
from .presets import PAL_PUBLISHED
from .store import Result

_COLOURS = {
    "full": GREY,
    "lesps": RED,
    "pal": ORANGE,
    PAL_PUBLISHED: "#CC79A7",
    "static": "#F0E442",
    "semantic-prior": BLUE,
    STUDENT: BLUE,
    TEACHER: "#56B4E9",
    "small-unet, masks": "#BBBBBB",
    "small-unet, static contrast labels": GREEN,
}
_MARKERS = "osD^vP*X"
_HYPERGRADIENTS = (BLUE, GREEN, ORANGE, RED, "#CC79A7", "#56B4E9")


def draw_all(results: Sequence[Result], out: Path) -> list[Path]:
    """Write every picture that there is something to show in; where they lie."""
    good = [one for one in results if is_ok(one)]
    main = [one for one in good if MAIN in dict(one["places"])]
    drawn = [
        _cost(main, out / "cost.png"),
        _labels(main, out / "labels.png"),
        _stability(results, out / "stability.png"),
        _hypergradients(good, out / "hypergradients.png"),
    ]
    return [path for path in drawn if path is not None]


def _cost(cells: Sequence[Result], path: Path) -> Path | None:
    shown = [one for one in cells if "test" in one["metrics"]]
    if not shown:
        return None
    figure = new_figure(7.5, 4.8)
    axes = figure.subplots()
    backbones = list(dict.fromkeys(one["recipe"]["backbone"] for one in shown))
    for row, backbone in dict.fromkeys((one["recipe"]["row"], one["recipe"]["backbone"]) for one in shown):
        of_line = [
            one for one in shown if (one["recipe"]["row"], one["recipe"]["backbone"]) == (row, backbone)
        ]
        axes.scatter(
            [(one["usage"]["cpu_seconds"] - one["usage"]["probe_cpu_seconds"]) / 60 for one in of_line],
            [100 * one["metrics"]["test"]["student"]["iou"] for one in of_line],
            color=_COLOURS[row],
            marker=_MARKERS[backbones.index(backbone) % len(_MARKERS)],
            label=row if row.startswith("small-unet") else f"{backbone}, {row}",
            alpha=0.8,
        )
    axes.set_xscale("log")
    _finish(
        axes, "Accuracy against cost, a dot for each seed", "CPU minutes of a run's training", "test IoU, %"
    )
    save_figure(figure, path)
    return path


def _labels(cells: Sequence[Result], path: Path) -> Path | None:
    shown = [one for one in cells if one["curves"].get("label_iou")]
    backbones = list(dict.fromkeys(one["recipe"]["backbone"] for one in shown))
    if not shown:
        return None
    figure = new_figure(5.2 * len(backbones) + 0.5, 4.4)
    for axes, backbone in zip(figure.subplots(1, len(backbones), squeeze=False)[0], backbones, strict=True):
        rows = dict.fromkeys(one["recipe"]["row"] for one in shown if one["recipe"]["backbone"] == backbone)
        for row in rows:
            of_line = [
                one["curves"]["label_iou"]
                for one in shown
                if (one["recipe"]["row"], one["recipe"]["backbone"]) == (row, backbone)
            ]
            _runs(axes, [[(x, 100 * y) for x, y in curve] for curve in of_line], _COLOURS[row], row)
        _finish(axes, backbone, "epoch", "IoU of training labels with the masks, %")
    save_figure(figure, path)
    return path


def _stability(results: Sequence[Result], path: Path) -> Path | None:
    lines = [line for line in main_lines(results) if "iou" in line.values]
    if not lines:
        return None
    figure = new_figure(7.5, 0.42 * len(lines) + 1.4)
    axes = figure.subplots()
    for height, line in enumerate(lines):
        spread, colour = line.values["iou"], _COLOURS[line.name]
        axes.plot([100 * value for value in spread.values], [height] * len(spread.values), "o", color=colour)
        axes.plot([100 * spread.mean] * 2, [height - 0.3, height + 0.3], color=colour, linewidth=2)
    axes.set_yticks(range(len(lines)), [_name(line.backbone, line.name) for line in lines], fontsize=8)
    axes.invert_yaxis()
    axes.grid(alpha=0.25)
    axes.set_xlabel("test IoU, %")
    axes.set_title("A dot for each seed, a bar at their mean", fontsize=10)
    save_figure(figure, path)
    return path


def _hypergradients(cells: Sequence[Result], path: Path) -> Path | None:
    lines = axis_lines(cells).get("hypergradient", [])
    values = [line.name for line in lines if any(key.startswith("cosine_") for key in line.values)]
    values = list(dict.fromkeys(values))
    steps = sorted({int(key[7:]) for line in lines for key in line.values if key.startswith("cosine_")})
    if not values:
        return None
    figure = new_figure(4.6 * len(steps) + 4.8, 4.2)
    panels = figure.subplots(1, len(steps) + 1, squeeze=False)[0]
    for value, colour in zip(values, _HYPERGRADIENTS * len(values), strict=False):
        of_value = [one for one in cells if ["hypergradient", value] in map(list, one["places"])]
        probes = [[p for p in one["probes"] if "failure" not in p] for one in of_value]
        for t, axes in zip(steps, panels, strict=False):
            _runs(axes, [_series(run, str(t), "cosine") for run in probes], colour, value)
        _runs(panels[-1], [_series(run, str(steps[0]), "norm_ratio") for run in probes], colour, value)
    for t, axes in zip(steps, panels, strict=False):
        axes.set_ylim(-1.05, 1.05)
        _finish(axes, f"cosine to the exact one through T = {t}", "epoch", "cosine")
    panels[-1].set_yscale("log")
    _finish(panels[-1], f"norm over that of the exact one, T = {steps[0]}", "epoch", "ratio")
    save_figure(figure, path)
    return path


def _series(probes: list[dict[str, object]], steps: str, key: str) -> list[tuple[int, float]]:
    found = []
    for probe in probes:
        exact = probe["exact"]
        assert isinstance(exact, dict)
        value = exact.get(steps, {}).get(key)
        if value is not None and (key == "cosine" or value > 0):
            found.append((int(str(probe["epoch"])) + 1, float(value)))
    return found


def _runs(axes: Axes, runs: Sequence[Sequence[tuple[int, float]]], colour: str, label: str) -> None:
    """Every run as a thin line, their mean, where all of them have a value, as a thick one."""
    tables = [dict(run) for run in runs if run]
    if not tables:
        return
    for table in tables:
        axes.plot(list(table), list(table.values()), color=colour, alpha=0.3, linewidth=0.9)
    common = [x for x in tables[0] if all(x in table for table in tables)]
    means = [statistics.fmean(table[x] for table in tables) for x in common]
    axes.plot(common, means, color=colour, linewidth=2, label=label, marker="o", markersize=2.5)


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)


def _name(backbone: str, line: str) -> str:
    return line if line.startswith("small-unet") else f"{backbone}, {line}"
