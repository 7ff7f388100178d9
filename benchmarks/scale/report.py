"""The figures as tables, and what they come to at a million images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import clusters, growth, ranks, sizes, steps
from .rows import Row, of

MILLION = 1_000_000
_OF_A_RUN = (
    "opening a packed file",
    "loading",
    "first labels",
    "evolving labels",
    "opening a stream of crops",
)
_FORWARD = "network (MLCLNet), forward"


def markdown(rows: list[Row], about: dict[str, Any], remarks: Sequence[str]) -> str:
    """All tables."""
    versions = about["versions"]
    text = [
        f"`{about['command']}`; {about['machine']['processor']}, one thread, Python {versions['python']}, "
        f"PyTorch {versions['torch']}." + (" A smoke test, not a measurement." if about["quick"] else ""),
        *(f"**{remark}**" for remark in remarks),
    ]
    parts: tuple[tuple[str, Callable[[list[Row]], list[str]]], ...] = (
        ("Against the number of images", _growth),
        ("Against the size of an image", _sizes),
        ("A training step against crop and batch", lambda some: _steps(some, steps.INNER)),
        ("An outer step against the number of clusters", lambda some: _steps(some, steps.CLUSTERS)),
        ("An outer step against the unroll steps", lambda some: _steps(some, steps.UNROLL)),
        ("Clustering", _clustering),
        ("Against the number of processes", _ranks),
        ("A million images", _million),
    )
    for title, part in parts:
        lines = part(rows)
        if lines:
            text += [f"### {title}", "\n".join(lines)]
    return "\n\n".join(text) + "\n"


@dataclass(frozen=True)
class Growth:
    """What one image more costs in a step over all of them.

    Attributes:
        seconds: CPU seconds.
        peak, stays: bytes of memory while the step is done, and afterwards.
        disk: bytes of the file that it writes, if it writes one.
    """

    seconds: float
    peak: float
    stays: float
    disk: float | None


_NOT_MEASURED = Growth(math.nan, math.nan, math.nan, None)


def growths(rows: list[Row], streamed: bool) -> dict[str, Growth]:
    """What → its growth, from the differences between few and many images."""
    found: dict[str, Growth] = {}
    kinds = dict.fromkeys(row.what for row in rows if row.cell == growth.CELL)
    for what in kinds:
        # Of a step that is done several times the last one counts: the first may set something up.
        same = [row for row in of(rows, growth.CELL, what) if row.at["streamed"] == streamed]
        by_count = {row.at["images"]: row for row in same}
        if len(by_count) < 2:
            continue
        few, many = (by_count[count] for count in (min(by_count), max(by_count)))
        more = many.count - few.count
        if more <= 0:  # not a step over all images
            found[what] = Growth(many.each, math.nan, math.nan, None)
            continue
        disk = None if many.disk is None or few.disk is None else (many.disk - few.disk) / more
        found[what] = Growth(
            (many.seconds - few.seconds) / more,
            (many.peak - few.peak) / more,
            (many.stays - few.stays) / more,
            disk,
        )
    return found


def _growth(rows: list[Row]) -> list[str]:
    held, streamed = growths(rows, False), growths(rows, True)
    if not held or not streamed:
        return []
    at = [row.at for row in rows if row.cell == growth.CELL]
    counts, side = sorted({one["images"] for one in at}), at[0]["side"]
    lines = [
        f"What one image more of {side}² costs, from the difference between {counts[0]} and {counts[-1]} "
        "images: CPU time (of an allocator that gives all back at once, which costs some), memory at the "
        "peak of the step and kept after it, with pixels in memory and with pixels streamed from the packed "
        f"file. An image and its mask are {_bytes(2 * side * side)}.",
        "",
        "| step | ms | peak, in memory | kept | peak, streamed | kept | ms, streamed | file |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for what in held:
        one, other = held[what], streamed.get(what, _NOT_MEASURED)
        figures = (one.peak, one.stays, other.peak, other.stays)
        cells = [
            _ms(one.seconds),
            *map(_bytes, figures),
            _ms(other.seconds),
            "" if one.disk is None else _bytes(one.disk),
        ]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return lines


def _sizes(rows: list[Row]) -> list[str]:
    mine = [row for row in rows if row.cell == sizes.CELL]
    shapes = list(dict.fromkeys((row.at["height"], row.at["width"]) for row in mine))
    if not shapes:
        return []
    lines = [
        "CPU milliseconds for one image, and the memory that the step takes:",
        "",
        "| step | " + " | ".join(f"{height} × {width}" for height, width in shapes) + " |",
        "| --- |" + " ---: |" * len(shapes),
    ]
    for what in dict.fromkeys(row.what for row in mine):
        by_shape = {(row.at["height"], row.at["width"]): row for row in mine if row.what == what}
        cells = (f"{_ms(by_shape[shape].each)}, {_bytes(by_shape[shape].peak)}" for shape in shapes)
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return lines


def _steps(rows: list[Row], cell: str) -> list[str]:
    mine = [row for row in rows if row.cell == cell]
    if not mine:
        return []
    names = list(mine[0].at)
    lines = [
        "`semantic-prior` with MLCLNet; hidden maps of the frozen model given.",
        "",
        "| " + " | ".join(names) + " | CPU s | memory |",
        "|" + " ---: |" * (len(names) + 2),
    ]
    for row in mine:
        values = " | ".join(str(value) for value in row.at.values())
        lines.append(f"| {values} | {row.each:.3g} | {_bytes(row.peak)} |")
    return lines


def _clustering(rows: list[Row]) -> list[str]:
    mine = [row for row in rows if row.cell == clusters.CELL]
    if not mine:
        return []
    lines = [
        "k-means of random descriptors:",
        "",
        "| images | K | CPU s | memory |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for row in mine:
        wanted = row.at["K"] if row.at["K"] is not None else "a cluster for 11 images"
        lines.append(f"| {row.at['images']} | {wanted} | {row.seconds:.3g} | {_bytes(row.peak)} |")
    return lines


def _ranks(rows: list[Row]) -> list[str]:
    mine = [row for row in rows if row.cell == ranks.CELL]
    if not mine:
        return []
    at = mine[0].at
    cores = f" of {at['cores']} core(s)" if at["cores"] else ""
    lines = [
        f"One run of `semantic-prior` with MLCLNet, shared by processes of one thread each (gloo) on "
        f"{at['processors']} processors{cores}: {at['images']} images of {at['side']}², crops of "
        f"{at['crop']}² in batches of {at['batch']}. Seconds by the clock; CPU seconds of all processes "
        "together; memory of each process after setting up, and what an epoch and an evolution take besides.",
        "",
        "| processes | an epoch, s | CPU s | an evolution, s | CPU s | memory, set up | epoch | evolution |",
        "|" + " ---: |" * 8,
    ]
    for count in dict.fromkeys(row.at["ranks"] for row in mine):
        by_what = {
            what: [row for row in mine if row.at["ranks"] == count and row.what == what]
            for what in (ranks.SET_UP, ranks.EPOCH, ranks.EVOLUTION)
        }
        cells = [str(count)]
        for what in (ranks.EPOCH, ranks.EVOLUTION):
            cells.append(f"{max(row.wall or math.nan for row in by_what[what]):.3g}")
            cells.append(f"{sum(row.seconds for row in by_what[what]):.3g}")
        cells.append(_bytes(max(row.stays for row in by_what[ranks.SET_UP])))
        cells += [_bytes(max(row.peak for row in by_what[what])) for what in (ranks.EPOCH, ranks.EVOLUTION)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _million(rows: list[Row]) -> list[str]:
    """What the measured figures come to, one thread each; nothing here was run."""
    held = growths(rows, False)
    streamed = {**held, **growths(rows, True)}
    if len(held) < 2 or not any(row.at["streamed"] for row in rows if row.cell == growth.CELL):
        return []
    side = next(row.at["side"] for row in rows if row.cell == growth.CELL)
    kept = sum(max(streamed[what].stays, 0.0) for what in _OF_A_RUN if what in streamed)
    most = max(streamed[what].peak for what in _OF_A_RUN if what in streamed)
    figures: list[tuple[str, str]] = [
        ("packed file", _bytes(MILLION * (held["packing"].disk or 0.0))),
        ("pixels and masks in memory", _bytes(MILLION * 2.0 * side * side)),
        ("… streamed: what a training run keeps of all images", _bytes(MILLION * kept)),
        ("… streamed: the most that a step of it takes besides", _bytes(MILLION * most)),
        ("label store, first version", _bytes(MILLION * (held["first labels"].disk or 0.0))),
        ("label store, every evolution", _bytes(MILLION * (held["evolving labels"].disk or 0.0))),
        ("packing", _hours(held["packing"].seconds)),
        ("loading, streamed", _hours(streamed["loading"].seconds)),
    ]
    once = {
        "first labels": ["first labels (levels)"],
        "describing for the clusters": ["describing for the clusters"],
        "an evolution of all labels, network included": [_FORWARD, "evolving a label, prediction given"],
        "an evaluation, network included": [_FORWARD, "metrics, prediction given"],
    }
    for what, parts in once.items():
        found = [_at(rows, sizes.CELL, part, height=side, width=side) for part in parts]
        if None not in found:
            figures.append((what, _hours(sum(row.each for row in found if row is not None))))
    step = _at(rows, steps.INNER, "step", crop=side)
    if step is not None:
        figures.append((f"an epoch of crops of {side}²", _hours(step.each / step.at["batch"])))
    default = sorted(
        (row.at["images"], row.seconds) for row in of(rows, clusters.CELL, "fit") if row.at["K"] is None
    )
    if default:
        count, seconds = default[-1]
        days = seconds * (MILLION / count) ** 2 / 86400
        figures.append(("clustering, a cluster for 11 images (grows as N²)", f"{days:.3g} days"))
    fixed = sorted((row.at["images"], row.seconds) for row in of(rows, clusters.CELL, "fit") if row.at["K"])
    if fixed:
        count, seconds = fixed[-1]
        figures.append((f"clustering, {next(_ks(rows))} clusters (grows as N)", _hours(seconds / count)))
    return [
        f"One thread, images of {side}²; nothing was run at that size. Sizes, packing and loading are those "
        "of the first table times a million; other times are those of the tables by size of an image, of a "
        "training step and of k-means, whose allocator keeps what is freed.",
        "",
        "| what | a million images |",
        "| --- | ---: |",
        *(f"| {what} | {value} |" for what, value in figures),
    ]


def _ks(rows: list[Row]) -> Any:
    return (row.at["K"] for row in of(rows, clusters.CELL, "fit") if row.at["K"])


def _at(rows: list[Row], cell: str, what: str, **place: Any) -> Row | None:
    """The row measured at a place."""
    return next((row for row in of(rows, cell, what) if place.items() <= row.at.items()), None)


def _ms(seconds: float) -> str:
    return "" if math.isnan(seconds) else f"{1e3 * seconds:.3g}"


def _hours(seconds: float) -> str:
    """CPU hours of a million units."""
    return f"{seconds * MILLION / 3600:.3g} CPU h"


def _bytes(size: float) -> str:
    """A size as a person reads it; what cannot be told from noise of the measurement is 0."""
    if math.isnan(size):
        return ""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{max(size, 0.0):.0f} B"
