"""Which folder layouts are known, and which one a folder has."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError
from ..dataset import Dataset
from ._parts import Parts


@dataclass(frozen=True)
class Layout:
    """One way to lay out a dataset in a folder.

    Attributes:
        name: short, lower case; `open_dataset(path, layout=name)`.
        tree: what the folder holds, in one line, for the message when nothing fits.
        detect: folder → whether it has this layout; looks at names only.
        open: (folder, mask threshold) → the dataset; see `read_mask` for the threshold.
        fallback: tried only if no other layout fits.
        parts: folder → its files, unchecked, for `istd doctor`; None if the layout is not one of files.
    """

    name: str
    tree: str
    detect: Callable[[Path], bool]
    open: Callable[[Path, float | None], Dataset]
    fallback: bool = False
    parts: Callable[[Path], Parts] | None = None


_LAYOUTS: dict[str, Layout] = {}


def register_layout(layout: Layout) -> Layout:
    """Make `layout` known to `open_dataset`.

    Raises:
        ValueError: the name is taken.
    """
    if layout.name in _LAYOUTS:
        raise ValueError(f"a layout named {layout.name!r} is registered already")
    _LAYOUTS[layout.name] = layout
    return layout


def list_layouts() -> tuple[str, ...]:
    """The names of all registered layouts."""
    return tuple(sorted(_LAYOUTS))


def find_layout(root: Path, name: str | None = None) -> Layout:
    """The layout named `name`, or the one that the folder `root` has.

    Raises:
        DataError: an unknown name, no layout fits, or more than one does.
    """
    if name is not None:
        if name not in _LAYOUTS:
            raise DataError(f"unknown layout {name!r}", expected="one of " + ", ".join(list_layouts()))
        return _LAYOUTS[name]
    for fallback in (False, True):
        fitting = [one for one in _LAYOUTS.values() if one.fallback == fallback and one.detect(root)]
        if len(fitting) > 1:
            raise DataError(
                "more than one layout fits this folder",
                where=root,
                found=", ".join(one.name for one in fitting),
                fix=f"choose one: `istd pack {shlex.quote(str(root))} --layout {fitting[0].name}`, then "
                "train on the packed file",
            )
        if fitting:
            return fitting[0]
    inside = sorted(child.name + ("/" if child.is_dir() else "") for child in root.iterdir())
    raise DataError(
        "the folder has none of the known layouts",
        where=root,
        found=", ".join(inside[:12]) + (", …" if len(inside) > 12 else "") if inside else "an empty folder",
        expected="".join(f"\n    {one.name}: {one.tree}" for one in _LAYOUTS.values()),
        fix=_advice(root),
    )


def _advice(root: Path) -> str:
    """What to give instead: a folder inside that has a layout, if there is one."""
    folders = sorted(child for child in root.iterdir() if child.is_dir())[:100]
    fitting = [child for child in folders if any(one.detect(child) for one in _LAYOUTS.values())]
    if fitting:
        return "did you mean " + " or ".join(str(child) for child in fitting[:3]) + "?"
    return "give the dataset's own folder, or move your images into a folder named images/ inside it"
