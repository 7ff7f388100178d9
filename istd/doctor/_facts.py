"""What the checks look at: every image is read once, and only what they need of it is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..data import Parts, Record, read_mask
from ..data._fit import fit_mask, fit_points
from ..data._imagefile import read_gray_values, read_mode, read_raw, to_8_bit
from ..data.layouts._files import inside
from ..data.pointfiles import read_point_image
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
        mask_missing: whether it has no mask although the dataset has masks.
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
    mask = _mask_of(facts, root, parts, mask_threshold)
    try:
        points = _points_of(facts, root, parts)
    except DataError as error:
        facts.point_problem = _short(error)
        return facts
    if points is None:
        facts.points = facts.targets or 0
    else:
        _point_facts(facts, points, mask)
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


def _mask_of(facts: Facts, root: Path, parts: Parts, threshold: float | None) -> np.ndarray | None:
    if parts.masks is None or facts.size is None:
        return None
    if facts.name not in parts.masks:
        facts.mask_missing = True
        return None
    try:
        path = inside(root, parts.masks[facts.name])
        mask = read_mask(path, threshold)
        if mask.shape != facts.size:
            facts.mask_size = (mask.shape[0], mask.shape[1])
            mask = fit_mask(mask, facts.size, parts.images[facts.name], path)
    except DataError as error:
        if facts.mask_size is None:
            facts.mask_problem = _short(error)
        return None
    _mask_facts(facts, mask)
    return mask


def _mask_facts(facts: Facts, mask: np.ndarray) -> None:
    facts.mask_fraction = float(mask.mean())
    facts.targets = ndimage.label(mask, _NEAR)[1]


def _points_of(facts: Facts, root: Path, parts: Parts) -> np.ndarray | None:
    """The points that a file gives; None where they come from the mask."""
    if parts.points is not None:
        return parts.points.get(facts.name, np.empty((0, 2), np.int64))
    if parts.point_images is None or facts.name not in parts.point_images or facts.size is None:
        return None
    path = inside(root, parts.point_images[facts.name])
    points, size = read_point_image(path)
    return (
        points if size == facts.size else fit_points(points, size, facts.size, parts.images[facts.name], path)
    )


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
    labels, count = ndimage.label(mask, _NEAR)
    # A point beside a target counts for it, as it does in `off`: the largest label in its 3 × 3 window.
    owner = ndimage.maximum_filter(labels, 3)
    owner[mask] = labels[mask]
    hits = np.bincount(owner[tuple(points.T)], minlength=count + 1)[1:]
    for where, hit in zip(ndimage.find_objects(labels), hits, strict=True):
        corner = (int(where[0].start), int(where[1].start))
        if hit == 0:
            facts.unmarked.append(corner)
        elif hit > 1:
            facts.crowded.append(corner)


def _short(error: DataError) -> str:
    return error.problem if error.found is None else f"{error.problem}: {error.found}"
