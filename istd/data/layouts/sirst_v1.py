"""SIRST v1 as its authors publish it (Dai et al., WACV 2021, https://github.com/YimianDai/sirst).

images/NAME.png, masks/NAME_pixels0.png, idx_427/{train,val,test,trainval,trainvaltest}.txt
"""

from __future__ import annotations

from pathlib import Path

from ..dataset import SPLITS
from ._files import list_images, list_masks, read_point_file, read_split
from ._folder_dataset import register_folder_layout
from ._parts import Parts

_SPLIT_FOLDER = "idx_427"
_MASK_ENDING = "_pixels0"


def _detect(root: Path) -> bool:
    return all((root / folder).is_dir() for folder in ("images", "masks", _SPLIT_FOLDER))


def _parts(root: Path) -> Parts:
    split_files = {split: root / _SPLIT_FOLDER / f"{split}.txt" for split in SPLITS}
    images = list_images(root / "images")
    return Parts(
        splits={split: read_split(path, root) for split, path in split_files.items()},
        split_files=split_files,
        images=images,
        masks=list_masks(root / "masks", _MASK_ENDING),
        points=read_point_file(root, images),
    )


register_folder_layout(
    "sirst-v1", "images/NAME.png, masks/NAME_pixels0.png, idx_427/{train,val,test}.txt", _detect, _parts
)
