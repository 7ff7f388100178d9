"""What a label store refuses: other images, unusable labels and pools, and a second writer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import LabelError
from . import _store_format as disk


def check_pool(
    pool: npt.ArrayLike | None, count: int, default: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """The pool as bool [N] (`default` if None), or a `LabelError`."""
    if pool is None:
        return default.copy()
    members = np.asarray(pool)
    if members.dtype != np.bool_ or members.shape != (count,):
        raise LabelError(
            "the pool does not say of every image whether it trains",
            found=f"{members.dtype} {members.shape}",
            expected=f"bool [{count}]",
        )
    return members.copy()


def check_settings(path: Path, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings as JSON can hold them, or a `LabelError`."""
    try:
        return dict(json.loads(json.dumps(dict(settings or {}), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise LabelError(
            "the settings cannot be kept with the labels",
            where=path,
            found=error,
            expected="text, finite numbers, booleans, lists and mappings of them",
        ) from error


def check_names(path: Path, have: tuple[str, ...], want: Sequence[str]) -> None:
    """A `LabelError` unless the store holds exactly the images `want`, in their order."""
    if tuple(want) == have:
        return
    missing = [name for name in want if name not in set(have)]
    extra = [name for name in have if name not in set(want)]
    detail = f"{len(missing)} missing {missing[:3]}, {len(extra)} extra {extra[:3]}"
    raise LabelError(
        "the label store is of other images",
        where=path,
        found=detail if missing or extra else "the same images in another order",
        expected=f"the {len(want)} images of this run in their order",
        fix="use the data and split that the store was made with",
    )


def check_sizes(path: Path, header: disk.Header, want: Sequence[tuple[int, int]]) -> None:
    """A `LabelError` unless every label has the size (height, width) of its image."""
    if len(want) != len(header.sizes):
        raise LabelError(
            "the label store is of other images",
            where=path,
            found=f"{len(header.sizes)} images",
            expected=f"{len(want)} images",
        )
    for name, have, size in zip(header.names, header.sizes, want, strict=True):
        if have != tuple(size):
            raise LabelError(
                f"the label of image {name!r} has another size than the image",
                where=path,
                found=have,
                expected=tuple(size),
                fix="use the images that the store was made with",
            )


def check_unchanged(path: Path, known: disk.Header) -> None:
    """A `LabelError` if the file is not as last seen: a second writer would drop the first one's versions."""
    found = [(entry.epoch, entry.note) for entry in disk.read_header(path).versions]
    if found != [(entry.epoch, entry.note) for entry in known.versions]:
        raise LabelError(
            "another process changed the label store",
            where=path,
            found=f"{len(found)} versions",
            expected=f"{len(known.versions)} versions",
            fix="give each run its own --out folder",
        )
