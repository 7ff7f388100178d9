"""What the checks look at: every image is read once, and only what they need of it is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from .._regions import find_regions, label_mask
from ..data import Parts, Record
from ..data._fit import fit_mask
from ..data._imagefile import read_gray_values, read_mode, read_raw, to_8_bit
from ..data.layouts._files import inside
from ..data.layouts._sources import given_points, stored_mask
from ..errors import DataError

_NEAR = np.ones((3, 3), bool)


@dataclass
class Facts:
    """What is known of one image.

    Attributes:
        name: its name.
        splits: the splits that list it, in the order of train, val, test.
        problem: why its image cannot be read, or None.
        size: (height, width), or None where it cannot be read.
        mode: the kind of file, such as 'RGB' or 'I;16'; None for packed images.
        depth: 8 or 16.
        value_range: smallest and largest gray value as stored.
        channel_difference: largest difference between its colour channels, in gray levels.
        has_alpha: whether some pixel is transparent.
        digest: a hash of size and gray values.
        mask_problem: why its mask cannot be read or used, or None.
        mask_missing: whether it has points but no mask, although the dataset has masks.
        unlabelled: whether it has neither points nor a mask, although the dataset has one of them.
        mask_size: (height, width) of its mask where that differs from the image's.
        mask_fraction: part of the mask that is target; None without a mask.
        targets: how many targets its mask has; None without a mask.
        point_problem: why its points cannot be read, or None.
        points: how many points it has.
        outside, off: points outside the image, and points more than one pixel away from its mask, (y, x).
        unmarked: targets without a point, (y, x) of their first pixel.
        crowded: targets with several points, (y, x) of their first pixel.
    """

    name: str
    splits: tuple[str, ...]
    problem: str | None = None
    size: tuple[int, int] | None = None
    mode: str | None = None
    depth: int = 8
    value_range: tuple[int, int] = (0, 255)
    channel_difference: int = 0
    has_alpha: bool = False
    digest: str = ""
    mask_problem: str | None = None
    mask_missing: bool = False
    unlabelled: bool = False
    mask_size: tuple[int, int] | None = None
    mask_fraction: float | None = None
    targets: int | None = None
    point_problem: str | None = None
    points: int = 0
    outside: list[tuple[int, int]] = field(default_factory=list)
    off: list[tuple[int, int]] = field(default_factory=list)
    unmarked: list[tuple[int, int]] = field(default_factory=list)
    crowded: list[tuple[int, int]] = field(default_factory=list)


def facts_of_files(
    name: str,
    splits: tuple[str, ...],
    root: Path,
    parts: Parts,
    mask_threshold: float | None,
    look: Callable[[str, np.ndarray], None],
) -> Facts:
    """Look at the files of one image; `look` is called with its name and its pixels, uint8 [H, W]."""
    facts = Facts(name, splits)
    try:
        path = inside(root, parts.images[name])
        values = read_gray_values(path)
        _image_facts(facts, path, values)
        look(name, to_8_bit(values))
    except DataError as error:
        facts.problem = _short(error)
        return facts
    assert facts.size is not None
    facts.unlabelled = not parts.is_labelled(name)
    mask = _mask_of(facts, facts.size, root, parts, mask_threshold)
    try:
        given = given_points(root, parts, name, facts.size)
    except DataError as error:
        facts.point_problem = _short(error)
        return facts
    if given is None:
        facts.points = facts.targets or 0
    else:
        _point_facts(facts, given[0], mask)
    return facts


def facts_of_record(
    splits: tuple[str, ...], record: Record, look: Callable[[str, np.ndarray], None]
) -> Facts:
    """As `facts_of_files`, for an image that is no file of its own."""
    facts = Facts(record.name, splits)
    _value_facts(facts, record.image)
    look(record.name, record.image)
    if record.mask is not None:
        _mask_facts(facts, record.mask)
    _point_facts(facts, record.points, record.mask)
    return facts


def _image_facts(facts: Facts, path: Path, values: np.ndarray) -> None:
    _value_facts(facts, values)
    facts.mode = read_mode(path)
    if facts.mode in ("1", "L") or facts.mode.startswith("I"):
        return
    raw = read_raw(path)
    if raw.ndim == 3:
        colours = raw[..., :3]
        spread = colours.max(2).astype(np.int64) - colours.min(2)
        facts.channel_difference = int(spread.max() >> (8 if raw.dtype == np.uint16 else 0))
        facts.has_alpha = raw.shape[2] == 4 and bool((raw[..., 3] != np.iinfo(raw.dtype).max).any())


def _value_facts(facts: Facts, values: np.ndarray) -> None:
    facts.size = (values.shape[0], values.shape[1])
    facts.depth = 8 * values.dtype.itemsize
    facts.value_range = int(values.min()), int(values.max())
    facts.digest = hashlib.sha256(f"{values.shape}{values.dtype}".encode() + values.tobytes()).hexdigest()


def _mask_of(
    facts: Facts, size: tuple[int, int], root: Path, parts: Parts, threshold: float | None
) -> np.ndarray | None:
    try:
        stored = stored_mask(root, parts, facts.name, threshold)
        if stored is None:
            facts.mask_missing = parts.masks is not None and not facts.unlabelled
            return None
        mask, path = stored
        if mask.shape != size:
            facts.mask_size = (mask.shape[0], mask.shape[1])
            mask = fit_mask(mask, size, parts.images[facts.name], path)
    except DataError as error:
        if facts.mask_size is None:
            facts.mask_problem = _short(error)
        return None
    _mask_facts(facts, mask)
    return mask


def _mask_facts(facts: Facts, mask: np.ndarray) -> None:
    facts.mask_fraction = float(mask.mean())
    facts.targets = label_mask(mask)[0]


def _point_facts(facts: Facts, points: np.ndarray, mask: np.ndarray | None) -> None:
    assert facts.size is not None
    facts.points = len(points)
    inner = ((points >= 0) & (points < facts.size)).all(1)
    facts.outside = [(int(y), int(x)) for y, x in points[~inner]]
    if mask is None:
        return
    points = points[inner]
    near = ndimage.binary_dilation(mask, _NEAR)
    facts.off = [(int(y), int(x)) for y, x in points if not near[y, x]]
    regions = find_regions(mask)
    labels = regions.labels
    # A point beside a target counts for it, as it does in `off`: the largest label in its 3 × 3 window.
    owner = ndimage.maximum_filter(labels, 3)
    owner[mask] = labels[mask]
    hits = np.bincount(owner[tuple(points.T)], minlength=regions.count + 1)[1:]
    for where, hit in zip(ndimage.find_objects(labels), hits, strict=True):
        corner = (int(where[0].start), int(where[1].start))
        if hit == 0:
            facts.unmarked.append(corner)
        elif hit > 1:
            facts.crowded.append(corner)


def _short(error: DataError) -> str:
    return error.problem if error.found is None else f"{error.problem}: {error.found}"
