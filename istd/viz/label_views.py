"""What to show of labels that evolve: which images, which part of them, which versions."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import numpy as np

from .gallery import LabelStrip

if TYPE_CHECKING:
    from ..data import Record
    from ..labels import LabelStore

_LEAST_SIDE, _LARGEST_SIDE, _MARGIN = 33, 96, 8


def most_changed(store: LabelStore, count: int, among: Collection[str] | None = None) -> list[str]:
    """The images whose labels changed in most versions; of equals, those that come first in the store.

    Args:
        store: the labels.
        count: how many images.
        among: names to choose from; all of the store if None.
    """
    times = {name: 0 for name in store.names if among is None or name in among}
    for version in store.history():
        for name in version.changed:
            if name in times:
                times[name] += 1
    return sorted(times, key=lambda name: -times[name])[:count]


def label_strips(store: LabelStore, records: Iterable[Record]) -> list[LabelStrip]:
    """A window of every image with its label at every version. One whole label is in memory at a time."""
    history = store.history()
    strips = []
    for record in records:
        changes = [version.number for version in history if record.name in version.changed]
        ever = np.zeros(record.image.shape, np.bool_) if record.mask is None else record.mask.copy()
        for number in changes:
            ever |= store.label(record.name, number) > 0
        cut = _window(ever, record.points)
        labels: list[tuple[str, np.ndarray]] = []
        for version in history:
            # As it was before, where this version did not change it.
            window = (
                store.label(record.name, version.number)[cut] if version.number in changes else labels[-1][1]
            )
            labels.append((f"epoch {version.epoch}", window))
        truth = None if record.mask is None else record.mask[cut]
        strips.append(LabelStrip(record.name, record.image[cut], labels, truth))
    return strips


def thin_out(strips: Iterable[LabelStrip], columns: int) -> list[LabelStrip]:
    """The same strips with at most `columns` ≥ 2 labels, spread over the run, first and last included."""
    thinned = []
    for strip in strips:
        last = len(strip.labels) - 1
        chosen = sorted({round(last * i / (columns - 1)) for i in range(columns)})
        thinned.append(dataclasses.replace(strip, labels=[strip.labels[number] for number in chosen]))
    return thinned


def _window(ever: np.ndarray, points: np.ndarray) -> tuple[slice, slice]:
    """Around all that is in `ever`, with a margin; where targets lie far apart, around the first point."""
    places = np.argwhere(ever) if ever.any() else np.array([[side // 2 for side in ever.shape]])
    cut = []
    for axis, length in enumerate(ever.shape):
        low, high = int(places[:, axis].min()), int(places[:, axis].max()) + 1
        needed = high - low + 2 * _MARGIN
        side = min(max(needed, _LEAST_SIDE), _LARGEST_SIDE, length)
        middle = (low + high) // 2
        if needed > _LARGEST_SIDE:
            middle = int(points[0, axis] if len(points) else places[0, axis])
        start = min(max(0, middle - side // 2), length - side)
        cut.append(slice(start, start + side))
    return cut[0], cut[1]
