"""A plain folder of images, for one's own data.

images/NAME.png            the images; png, bmp, jpg or tif; without images/, those in the folder itself
masks/NAME.png             optional: binary masks
points.csv | points.json   optional: one point per target; see `istd.data.pointfiles` for the formats
points/NAME.png            optional, without a point file: images of dots
{train,val,test}.txt       optional: names, one a line; without them, a fixed split of 60, 20 and 20 %

Without points, those of an image are the centroids of its mask's components.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

from .._imagefile import IMAGE_SUFFIXES
from .._record import DataWarning
from ..dataset import SPLITS
from ._files import list_images, listed, read_point_file, read_split
from ._folder_dataset import register_folder_layout
from ._parts import Parts


def fixed_split(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Split names 60/20/20 in an order that looks random but depends on the names alone.

    The names are ordered by their SHA-256; of n, the first n // 5 are the test split, the next n // 5 the
    validation split. Frames of one video end up in several splits: give split files for such data.
    """
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8")).digest())
    fifth = len(ordered) // 5
    parts = {"test": ordered[:fifth], "val": ordered[fifth : 2 * fifth], "train": ordered[2 * fifth :]}
    return {split: tuple(sorted(parts[split])) for split in SPLITS}


def _detect(root: Path) -> bool:
    return (root / "images").is_dir() or any(
        path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
        for path in root.iterdir()
    )


def _parts(root: Path) -> Parts:
    images = list_images(root / "images" if (root / "images").is_dir() else root)
    # A link that leads nowhere is a split file too: what it names is not to be guessed.
    lists = {split: root / f"{split}.txt" for split in SPLITS}
    split_files = {split: path for split, path in lists.items() if os.path.lexists(path)}
    if split_files:
        splits = {split: read_split(path, root) for split, path in split_files.items()}
    else:
        splits = fixed_split(images)
        counts = ", ".join(f"{len(names)} {split}" for split, names in splits.items())
        warnings.warn(
            f"{root}: there are no split files, so the images are split by a hash of their names ({counts}); "
            "frames of one video belong into one split: give train.txt, val.txt and test.txt for them",
            DataWarning,
            stacklevel=4,
        )
    return Parts(
        splits=splits,
        split_files=split_files,
        images=images,
        masks=listed(root / "masks"),
        points=read_point_file(root, images),
        point_images=listed(root / "points"),
    )


register_folder_layout(
    "folder",
    "images/ or image files, and as you have them masks/, points.csv, points.json or points/, "
    "{train,val,test}.txt",
    _detect,
    _parts,
    fallback=True,
)
