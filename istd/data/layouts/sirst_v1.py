"""SIRST v1 as its authors publish it (Dai et al., WACV 2021, https://github.com/YimianDai/sirst).

images/NAME.png, masks/NAME_pixels0.png, idx_427/{train,val,test,trainval,trainvaltest}.txt
"""

from __future__ import annotations

from pathlib import Path

from ..dataset import SPLITS, Dataset
from ._files import FolderDataset, list_images, read_split
from ._registry import Layout, register_layout

_SPLIT_FOLDER = "idx_427"
_MASK_ENDING = "_pixels0"


def _detect(root: Path) -> bool:
    return all((root / folder).is_dir() for folder in ("images", "masks", _SPLIT_FOLDER))


def _open(root: Path, mask_threshold: float | None) -> Dataset:
    split_files = {split: root / _SPLIT_FOLDER / f"{split}.txt" for split in SPLITS}
    masks = list_images(root / "masks")
    return FolderDataset(
        root,
        "sirst-v1",
        splits={split: read_split(path, root) for split, path in split_files.items()},
        split_files=split_files,
        images=list_images(root / "images"),
        masks={stem.removesuffix(_MASK_ENDING): path for stem, path in masks.items()},
        mask_threshold=mask_threshold,
    )


register_layout(
    Layout(
        name="sirst-v1",
        tree="images/NAME.png, masks/NAME_pixels0.png, idx_427/{train,val,test}.txt",
        detect=_detect,
        open=_open,
    )
)
