"""Under which rules the figures were taken, in sentences: what a reader needs to judge and repeat them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .aggregate import is_ok
from .cells import MAIN
from .store import Result


def protocol(results: Sequence[Result], command: str) -> list[str]:
    """Sentences; where cells differ, all values are named. Settings are those of the main table's cells."""
    good = [one for one in results if is_ok(one)]
    if not good:
        return [f"Command: `{command}`.", "No cell has a result yet."]

    main = [one for one in good if MAIN in {axis for axis, _ in one["places"]}] or good

    def config(name: str) -> str:
        return _all(main, lambda one: one["request"]["config"].get(name))

    images = _all(good, lambda one: " / ".join(f"{one['images'][split]} {split}" for split in one["images"]))
    hashes = _all(good, lambda one: one.get("data_hash", "unknown")[:12])
    vfms = {_vfm(one) for one in good if one["recipe"]["row"] == "semantic-prior"}
    steps = sorted({(one["recipe"]["row"], one["steps"], one["request"]["config"]["epochs"]) for one in main})
    return [
        f"Data: {config('data')}, {images} images; split hash "
        f"{_all(good, lambda one: one['split_hash'][:12])}, data hash {hashes}.",
        f"The weights that are tested are those with the best validation score "
        f"({_all(good, lambda one: one['selection']['rule'])}); the test split is looked at once, after "
        "that.",
        "Metrics: " + _all(good, lambda one: _named(one["convention"])) + ", at native size.",
        "Steps: " + ", ".join(f"{row} {count} ({epochs} epochs)" for row, count, epochs in steps)
        + f"; crops of {config('crop')}, batches of {config('batch_size')}, {config('optimizer')}, "
        f"lr {config('lr')} ({config('lr_schedule')}), precision {config('precision')}, ema {config('ema')}.",
        *_differences(main),
        *_labels(main),
        "The teacher's frozen model: " + ("; ".join(sorted(vfms)) or "not used") + ".",
        f"Threads {_all(good, lambda one: one['threads'])}, device {_all(good, lambda one: one['device'])}, "
        f"{_all(good, lambda one: one['machine']['processor'])}; load when the cells began "
        f"{_range(one['machine']['load'] for one in good)} (cells run side by side: their seconds are no "
        "measure of speed).",
        "Versions: " + _all(good, lambda one: _named(one["versions"])) + "; code "
        + _all(good, lambda one: _code(one["code"])) + ".",
        f"Command: `{command}`.",
    ]  # fmt: skip


_SAID = {"method", "backbone", "seed", "epochs", "label_init"}
"""Settings of which the table or another sentence tells."""


def _differences(results: Sequence[Result]) -> list[str]:
    """The settings in which rows differ: value and rows; nothing if they differ in none."""
    by_row = {one["recipe"]["row"]: one["request"]["config"] for one in results}
    found = []
    for name in sorted({name for config in by_row.values() for name in config} - _SAID):
        rows: dict[str, list[str]] = {}
        for row, config in by_row.items():
            rows.setdefault(str(config.get(name)), []).append(row)
        if len(rows) > 1:
            usual = max(rows, key=lambda value: len(rows[value]))
            others = (f"{value} for {' / '.join(of)}" for value, of in rows.items() if value != usual)
            found.append(f"{name} {usual}, but {'; '.join(others)}")
    return ["Where rows differ: " + " · ".join(found) + "."] if found else []


def _named(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _labels(results: Iterable[Result]) -> list[str]:
    """How labels start, and by whose masks the defaults of the starts were chosen; nothing without labels."""
    starts = {one["recipe"]["row"]: one["labels"]["init"] for one in results if one.get("labels")}
    chosen = {
        "levels": "`levels` by those of SIRST v1's training split",
        "contrast": "`contrast` by those of all of SIRST v1",
    }
    used = [text for start, text in chosen.items() if start in starts.values()]
    sentence = "First labels: " + ", ".join(f"{row} {start}" for row, start in sorted(starts.items()))
    if used:
        sentence += ". Masks once chose the defaults of the starts, " + ", ".join(used)
    return [sentence + "."] if starts else []


def _all(results: Iterable[Result], get: Callable[[Result], Any]) -> str:
    """The values that occur, in the order in which they first do."""
    return ", ".join(dict.fromkeys(str(get(one)) for one in results))


def _range(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.1f} to {max(known):.1f}" if known else "unknown"


def _vfm(result: Result) -> str:
    vfm = result.get("vfm")
    if vfm is None:
        return "none"
    return f"{vfm['name']} with **random weights**" if vfm["random"] else f"{vfm['name']}, pretrained"


def _code(code: dict[str, Any]) -> str:
    commit = (code.get("commit") or "unknown")[:10]
    return commit + (" with changes" if code.get("dirty") else "")
