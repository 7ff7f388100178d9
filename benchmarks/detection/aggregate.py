"""From cells to lines of tables: means and spreads over seeds, ratios, and the order of the methods."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .cells import MAIN
from .presets import PAL_PUBLISHED, ROWS
from .store import Result

METRICS = ("iou", "niou", "pd", "fa")
STUDENT, TEACHER = "semantic-prior, student", "semantic-prior, teacher"
LINES = (
    "full",
    "lesps",
    PAL_PUBLISHED,
    "pal",
    "static",
    TEACHER,
    STUDENT,
    "small-unet, masks",
    "small-unet, static contrast labels",
)
"""Lines of the main table, in order."""

_ORDER = (
    (STUDENT, "static"),
    (STUDENT, "pal"),
    (STUDENT, PAL_PUBLISHED),
    ("pal", "lesps"),
    (PAL_PUBLISHED, "lesps"),
)


@dataclass(frozen=True)
class Spread:
    """Values over seeds: their mean, and their sample standard deviation (n − 1) where there are two."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """As data."""
        return {"mean": self.mean, "std": self.std, "n": len(self.values), "values": list(self.values)}


@dataclass(frozen=True)
class Line:
    """Cells that differ in their seed alone.

    Attributes:
        backbone, name: what they are.
        seeds: those that ended well, in the order of all values.
        values: "iou", "niou", "pd", "fa" on the test split, "label_start", "label_end" (IoU of the training
            labels with the masks), "seconds" and "cpu_seconds" (of the training, without the probe),
            "peak_mb" (resident), "teacher_iou", and what `hypergradient_values` gives.
        ratio: mean IoU over that of full supervision, over the seeds that both have.
        failed: seeds that failed → why.
        pending: how many seeds were not run yet.
    """

    backbone: str
    name: str
    seeds: tuple[int, ...]
    values: dict[str, Spread]
    ratio: float | None
    failed: dict[int, str]
    pending: int

    def to_dict(self) -> dict[str, Any]:
        """As data."""
        return {**asdict(self), "values": {name: one.to_dict() for name, one in self.values.items()}}


def main_lines(results: Sequence[Result]) -> list[Line]:
    """The lines of the main table: backbone by backbone, in the order of `LINES`."""
    cells = [one for one in results if MAIN in {axis for axis, _ in one["places"]}]
    found = []
    for backbone in dict.fromkeys(one["recipe"]["backbone"] for one in cells):
        for name in LINES:
            row, _, role = name.partition(", ") if name not in ROWS else (name, "", "student")
            together = [one for one in cells if one["recipe"]["backbone"] == backbone and _row(one) == row]
            if together:
                full = "small-unet, masks" if row.startswith("small-unet") else "full"
                upper = [one for one in cells if one["recipe"]["backbone"] == backbone and _row(one) == full]
                found.append(_line(backbone, name, together, role, upper))
    return found


def axis_lines(results: Sequence[Result]) -> dict[str, list[Line]]:
    """Axis → its lines, one for each backbone and value, the student's metrics."""
    found: dict[str, list[Line]] = {}
    for axis in dict.fromkeys(axis for one in results for axis, _ in one["places"] if axis != MAIN):
        cells = [(one, dict(one["places"])[axis]) for one in results if axis in dict(one["places"])]
        found[axis] = []
        for backbone in dict.fromkeys(one["recipe"]["backbone"] for one, _ in cells):
            upper = [
                one
                for one in results
                if one["recipe"]["backbone"] == backbone and _row(one) == "full" and not _changes(one)
            ]
            for value in dict.fromkeys(value for _, value in cells):
                together = [one for one, v in cells if v == value and one["recipe"]["backbone"] == backbone]
                if together:
                    found[axis].append(_line(backbone, value, together, "student", upper))
    return found


def _line(backbone: str, name: str, cells: Sequence[Result], role: str, upper: Sequence[Result]) -> Line:
    good = sorted((one for one in cells if is_ok(one)), key=_seed)
    read: dict[str, Callable[[Result], float | None]] = {
        **{metric: _metric(role, metric) for metric in METRICS},
        "teacher_iou": _metric("teacher", "iou"),
        "label_start": lambda one: _curve_end(one, "label_iou", 0),
        "label_end": lambda one: _curve_end(one, "label_iou", -1),
        "seconds": lambda one: one["usage"]["seconds"] - one["usage"]["probe_seconds"],
        "cpu_seconds": lambda one: one["usage"]["cpu_seconds"] - one["usage"]["probe_cpu_seconds"],
        "peak_mb": lambda one: one["usage_total"]["peak_bytes"] / 1e6,
    }
    values = {key: [value for one in good if (value := get(one)) is not None] for key, get in read.items()}
    for key, numbers in hypergradient_values(good).items():
        values[key] = numbers
    return Line(
        backbone=backbone,
        name=name,
        seeds=tuple(_seed(one) for one in good),
        values={key: Spread(tuple(numbers)) for key, numbers in values.items() if numbers},
        ratio=_ratio(good, upper, role),
        failed={_seed(one): one["reason"] for one in cells if one["status"] == "failed"},
        pending=sum(one["status"] == "pending" for one in cells),
    )


def hypergradient_values(cells: Iterable[Result]) -> dict[str, list[float]]:
    """Means over a run's probes, one value for each run that has some.

    Keys "cosine_T", "norm_ratio_T" for each T of the exact ones, "hypergradient_seconds",
    "hypergradient_mb", "ihvp_residual", "ihvp_negative_curvature" (share of the solves that met it).
    """
    found: dict[str, list[float]] = {}
    for one in cells:
        of_run: dict[str, list[float]] = {}
        for probe in (probe for probe in one.get("probes", ()) if "failure" not in probe):
            entries: dict[str, float | None] = {
                "hypergradient_seconds": probe["seconds"],
                "hypergradient_mb": probe["peak_bytes"] / 1e6,
            }
            for steps, exact in probe["exact"].items():
                entries[f"cosine_{steps}"] = exact["cosine"]
                entries[f"norm_ratio_{steps}"] = exact["norm_ratio"]
            if "ihvp" in probe:
                entries["ihvp_residual"] = probe["ihvp"]["residual"]
                entries["ihvp_negative_curvature"] = float(probe["ihvp"]["negative_curvature"])
            for key, value in entries.items():
                if value is not None:
                    of_run.setdefault(key, []).append(value)
        for key, values in of_run.items():
            found.setdefault(key, []).append(statistics.fmean(values))
    return found


def group_lines(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Scores by target group: one entry for each line of the main table and group.

    "pd" and "target_iou" (mean IoU of a target with its match, 0 if missed) as `Spread.to_dict`, and how many
    "targets" there are.
    """
    found = []
    cells = [one for one in results if MAIN in dict(one["places"]) and is_ok(one)]
    for line in main_lines(results):
        row, _, role = line.name.partition(", ") if line.name not in ROWS else (line.name, "", "student")
        of_line = [
            one["groups"][role]
            for one in sorted(cells, key=_seed)
            if one["recipe"]["backbone"] == line.backbone and _row(one) == row and role in one["groups"]
        ]
        for group in of_line[0] if of_line else ():
            scores = [one[group] for one in of_line]
            if scores[0]["targets"]:
                entry: dict[str, Any] = {"backbone": line.backbone, "name": line.name, "group": group}
                entry["targets"] = scores[0]["targets"]
                for key in ("pd", "target_iou"):
                    entry[key] = Spread(tuple(score[key] for score in scores)).to_dict()
                found.append(entry)
    return found


def order(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Whether student > pal > lesps in test IoU: paired differences, over the seeds that both have."""
    found = []
    for backbone in dict.fromkeys(line.backbone for line in lines):
        of = {line.name: line for line in lines if line.backbone == backbone}
        for better, worse in _ORDER:
            if better not in of or worse not in of:
                continue
            ours, theirs = (_by_seed(of[name]) for name in (better, worse))
            pairs = {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}
            if pairs:
                spread = Spread(tuple(pairs.values()))
                found.append(
                    {
                        "backbone": backbone,
                        "better": better,
                        "worse": worse,
                        "holds": spread.mean > 0,
                        "holds_for_every_seed": all(value > 0 for value in pairs.values()),
                        "differences": {str(seed): value for seed, value in pairs.items()},
                        "mean": spread.mean,
                        "std": spread.std,
                    }
                )
    return found


def is_ok(result: Result) -> bool:
    return bool(result["status"] == "ok")


def _by_seed(line: Line) -> dict[int, float]:
    iou = line.values.get("iou")
    return dict(zip(line.seeds, iou.values, strict=True)) if iou is not None else {}


def _ratio(cells: Sequence[Result], upper: Sequence[Result], role: str) -> float | None:
    get, get_upper = _metric(role, "iou"), _metric("student", "iou")
    ours = {_seed(one): get(one) for one in cells}
    full = {_seed(one): get_upper(one) for one in upper if is_ok(one)}
    pairs = [(a, b) for seed, a in ours.items() if a is not None and (b := full.get(seed)) is not None]
    whole = sum(b for _, b in pairs)
    return sum(a for a, _ in pairs) / whole if whole else None


def _metric(role: str, name: str) -> Callable[[Result], float | None]:
    def get(result: Result) -> float | None:
        value = result["metrics"].get("test", {}).get(role, {}).get(name)
        return None if value is None else float(value)

    return get


def _curve_end(result: Result, name: str, position: int) -> float | None:
    points = result["curves"].get(name)
    return float(points[position][1]) if points else None


def _row(result: Result) -> str:
    row: str = result["recipe"]["row"] if not _changes(result) else ""
    return row


def _changes(result: Result) -> dict[str, Any]:
    changes: dict[str, Any] = result["recipe"]["changes"]
    return changes


def _seed(result: Result) -> int:
    seed: int = result["recipe"]["seed"]
    return seed
