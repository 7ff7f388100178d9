"""Synthetic scenes as files, in the layout that another program expects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from ..._files import atomic_folder, write_json, write_text
from ...errors import ConfigError
from ..pointfiles import write_point_image, write_points
from ..points import coarse_points, point_rng
from .dataset import SyntheticDataset
from .scene import Scene

COUNTS_PER_LEVEL = 64
"""16-bit images hold 14-bit counts, as detectors deliver them: 64 to a gray level of the 8-bit image."""


@dataclass(frozen=True)
class Tree:
    """Where the files of a layout go.

    Attributes:
        image, mask: templates of the paths of an image and its mask.
        splits: template of a split's list; None if the folders are the splits.
        points: template of the path of a point image; None: points go into `points.csv`.
        kinds: which points it can hold.
    """

    image: str
    mask: str
    splits: str | None
    points: str | None = None
    kinds: tuple[str, ...] = ("centroid", "coarse")


TREES: dict[str, Tree] = {
    "folder": Tree("images/{name}.png", "masks/{name}.png", "{split}.txt"),
    "sirst-v1": Tree("images/{name}.png", "masks/{name}_pixels0.png", "idx_427/{split}.txt"),
    "sirst-v2": Tree("mixed/{name}.png", "annotations/masks/{name}_pixels0.png", "splits/{split}_full.txt"),
    "dnanet": Tree(
        "images/{name}.png", "masks/{name}.png", "img_idx/{split}_{set}.txt", "masks_{kind}/{name}.png"
    ),
    "sirst3": Tree(
        "images/{name}.png",
        "labels/{name}.png",
        "mode/{split}.txt",
        "masks_centroid/{name}.png",
        ("centroid",),
    ),
    "pal": Tree("{part}/img/{name}.png", "{part}/mask/{name}.png", None, "{part}/masks_{kind}/{name}.png"),
}
"""Layout → tree, for every layout that can be written."""


def write_synthetic(
    dataset: SyntheticDataset,
    out: str | Path,
    *,
    layout: str = "folder",
    bits: Literal[8, 16] = 8,
    kind: str = "centroid",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write images, masks, points and splits into a new folder; it appears whole or not at all.

    Args:
        dataset: what to write.
        out: the folder; it must not exist, or be empty.
        layout: a key of `TREES`.
        bits: 8, or 16 for 14-bit counts before clipping to gray levels (64 counts to a level).
        kind: 'centroid' or 'coarse' points; coarse ones are drawn by the dataset's seed.
        progress: called with (images done, images in all) after each.

    Raises:
        ConfigError: an unknown layout, kind or number of bits, or a folder that has something in it.
        WriteError: the disk.
    """
    out = Path(out)
    tree = _check(out, layout, bits, kind)
    with atomic_folder(out) as partial:
        _write(dataset, partial, out.resolve().name, tree, bits, kind, progress)


def counts(scene: Scene) -> np.ndarray:
    """What a 14-bit detector delivers for a scene: uint16 [H, W], 64 counts to a gray level, up to 16383."""
    levels = scene.background + scene.signal + scene.noise
    return np.clip(np.rint(levels * COUNTS_PER_LEVEL), 0, 2**14 - 1).astype(np.uint16)


def _write(
    dataset: SyntheticDataset,
    root: Path,
    set_name: str,
    tree: Tree,
    bits: int,
    kind: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    points: dict[str, np.ndarray] = {}
    part_of = _parts_of_pal(dataset)
    for split, names in dataset.splits.items():
        for name in names:
            scene = dataset.scene(name)
            where = {"name": name, "split": split, "kind": kind, "part": part_of[split]}
            _save(root / tree.image.format(**where), scene.image if bits == 8 else counts(scene))
            _save(root / tree.mask.format(**where), scene.mask.astype(np.uint8) * 255)
            drawn = kind == "coarse"
            found = coarse_points(scene.mask, point_rng(dataset.seed, name)) if drawn else scene.points
            points[name] = found
            if tree.points is not None:
                path = root / tree.points.format(**where)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_point_image(path, found, dataset.size)
            if progress is not None:
                progress(len(points), len(dataset))
        if tree.splits is not None:
            lines = "".join(f"{name}\n" for name in names)
            write_text(root / tree.splits.format(split=split, set=set_name), lines)
    if tree.points is None:
        write_points(root / "points.csv", points)
    write_json(
        root / "synthetic.json",
        {
            "seed": dataset.seed,
            "size": list(dataset.size),
            "bits": bits,
            "points": kind,
            "settings": asdict(dataset.settings),
        },
    )


def _parts_of_pal(dataset: SyntheticDataset) -> dict[str, str]:
    """PAL calls its test split val; only with a validation split of its own there is a test/ too."""
    test = "test" if dataset.splits["val"] else "val"
    return {"train": "origin", "val": "val", "test": test}


def _save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, encoded = cv2.imencode(".png", image)
    path.write_bytes(encoded.tobytes())


def _check(out: Path, layout: str, bits: int, kind: str) -> Tree:
    if layout not in TREES:
        raise ConfigError("this layout cannot be written", found=layout, expected=" | ".join(TREES))
    if bits not in (8, 16):
        raise ConfigError("images have 8 or 16 bits", found=bits, expected="8 | 16")
    tree = TREES[layout]
    if kind not in tree.kinds:
        raise ConfigError(
            f"the layout {layout} has no such points", found=kind, expected=" | ".join(tree.kinds)
        )
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(
            "something is there already", where=out, expected="a new folder", fix="choose another name"
        )
    return tree
