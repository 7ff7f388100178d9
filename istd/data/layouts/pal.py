"""The layout of PAL (Yu et al., ICCV 2025, https://github.com/YuChuang1205/PAL).

origin/img/NAME.png                            training images
origin/{mask,masks_centroid,masks_coarse}/     masks, and dots for points; any of them
val/{img,mask}/NAME.png                        what PAL reports its figures on: the test split here
test/{img,mask}/NAME.png                       where it is there; val/ then is the validation split
"""

from __future__ import annotations

from pathlib import Path

from ._files import listed, read_point_file
from ._folder_dataset import register_folder_layout
from ._parts import Parts


def _detect(root: Path) -> bool:
    return (root / "origin" / "img").is_dir()


def _parts(root: Path) -> Parts:
    folders = {"train": root / "origin"}
    if (root / "test" / "img").is_dir():
        folders["test"] = root / "test"
        folders["val"] = root / "val"
    else:
        folders["test"] = root / "val"
    found = {split: listed(folder / "img") or {} for split, folder in folders.items()}
    images = {name: path for some in found.values() for name, path in some.items()}
    masks = [listed(folder / "mask") for folder in folders.values()]
    origin = root / "origin"
    return Parts(
        splits={split: tuple(some) for split, some in found.items()},
        split_files={split: folder / "img" for split, folder in folders.items()},
        images=images,
        masks={name: path for some in masks if some for name, path in some.items()} if any(masks) else None,
        points=read_point_file(root, images),
        point_images=listed(origin / "masks_centroid") or listed(origin / "masks_coarse"),
    )


register_folder_layout(
    "pal", "origin/img/, origin/{mask,masks_centroid,masks_coarse}/, val/img/, val/mask/", _detect, _parts
)
