"""SIRST v2 as its authors publish it (Dai et al., TGRS 2023, https://github.com/YimianDai/open-sirst-v2).

mixed/NAME.png, annotations/masks/NAME_pixels0.png, splits/{train,val,test}_full.txt. The other lists
in splits/ are subsets of these; background images have masks without a target.
"""

from __future__ import annotations

from pathlib import Path

from ..dataset import SPLITS
from ._files import list_images, list_masks, read_point_file, read_split
from ._folder_dataset import register_folder_layout
from ._parts import Parts


def _detect(root: Path) -> bool:
    return all((root / folder).is_dir() for folder in ("mixed", "annotations", "splits"))


def _parts(root: Path) -> Parts:
    split_files = {split: root / "splits" / f"{split}_full.txt" for split in SPLITS}
    images = list_images(root / "mixed")
    return Parts(
        splits={split: read_split(path, root) for split, path in split_files.items()},
        split_files=split_files,
        images=images,
        masks=list_masks(root / "annotations" / "masks", "_pixels0"),
        points=read_point_file(root, images),
    )


register_folder_layout(
    "sirst-v2",
    "mixed/NAME.png, annotations/masks/NAME_pixels0.png, splits/{train,val,test}_full.txt",
    _detect,
    _parts,
)
