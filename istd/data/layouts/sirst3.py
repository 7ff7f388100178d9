"""SIRST3 as the reference implementation lays it out (https://github.com/yuanhang-yao/semantic-prior).

images/NAME.png, masks_centroid/NAME.png (a dot on each target), labels/NAME.png (masks; of the test images at
least), mode/{train,val,test}.txt
"""

from __future__ import annotations

from pathlib import Path

from ..dataset import SPLITS
from ._files import list_images, listed, read_point_file, read_split
from ._folder_dataset import register_folder_layout
from ._parts import Parts


def _detect(root: Path) -> bool:
    return all((root / folder).is_dir() for folder in ("images", "masks_centroid", "mode"))


def _parts(root: Path) -> Parts:
    split_files = {split: root / "mode" / f"{split}.txt" for split in SPLITS}
    images = list_images(root / "images")
    return Parts(
        splits={split: read_split(path, root) for split, path in split_files.items()},
        split_files=split_files,
        images=images,
        masks=listed(root / "labels"),
        points=read_point_file(root, images),
        point_images=list_images(root / "masks_centroid"),
    )


register_folder_layout(
    "sirst3",
    "images/NAME.png, labels/NAME.png, masks_centroid/NAME.png, mode/{train,val,test}.txt",
    _detect,
    _parts,
)
