"""The layout of DNANet and of what followed it: NUAA-SIRST, NUDT-SIRST, IRSTD-1K, BasicIRSTD, LESPS' SIRST3.

images/NAME.png, masks/NAME.png, and the splits in one of two ways:

N_M/{train,test}.txt              as DNANet (Li et al., TIP 2023), for example 50_50/
img_idx/{train,test}_SET.txt      as BasicIRSTD and LESPS (Ying et al., CVPR 2023)

val.txt and val_SET.txt are read where they are there. Of several sets in img_idx/, the one named as the
folder counts, else the only one that has a training list. masks_centroid/ or, without it, masks_coarse/ hold
points as LESPS draws them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...errors import DataError
from ..dataset import SPLITS
from ._files import list_images, list_masks, listed, read_point_file, read_split
from ._folder_dataset import register_folder_layout
from ._parts import Parts

_RATIO = re.compile(r"\d+_\d+")
_LIST = re.compile(r"train(_.+)?\.txt")


def _ratio_folders(root: Path) -> list[Path]:
    return sorted(child for child in root.iterdir() if _RATIO.fullmatch(child.name) and child.is_dir())


def _detect(root: Path) -> bool:
    if not all((root / folder).is_dir() for folder in ("images", "masks")):
        return False
    return (root / "img_idx").is_dir() or bool(_ratio_folders(root))


def find_split_files(root: Path) -> dict[str, Path]:
    """Split → file: training and test list, and a validation list where there is one.

    Raises:
        DataError: no training list, or several with none named as the folder.
    """
    folders = [root / "img_idx"] if (root / "img_idx").is_dir() else _ratio_folders(root)
    lists = [path for folder in folders for path in sorted(folder.iterdir()) if _LIST.fullmatch(path.name)]
    named = [path for path in lists if path.stem == f"train_{root.resolve().name}"]
    if len(lists) != 1 and len(named) != 1:
        raise DataError(
            "which lists are the splits cannot be told",
            where=root,
            found=", ".join(str(path.relative_to(root)) for path in lists) or "no training list",
            expected="img_idx/train_SET.txt, SET the folder's name or the only one; or one N_M/train.txt",
            fix="move the lists that you do not mean elsewhere",
        )
    chosen = lists[0] if len(lists) == 1 else named[0]
    files = {split: chosen.with_name(chosen.name.replace("train", split, 1)) for split in SPLITS}
    return {split: path for split, path in files.items() if split != "val" or os.path.lexists(path)}


def _parts(root: Path) -> Parts:
    split_files = find_split_files(root)
    images = list_images(root / "images")
    return Parts(
        splits={split: read_split(path, root) for split, path in split_files.items()},
        split_files=split_files,
        images=images,
        # Copies of SIRST v1 in this layout often keep the ending that its masks have.
        masks=list_masks(root / "masks", "_pixels0"),
        points=read_point_file(root, images),
        point_images=listed(root / "masks_centroid") or listed(root / "masks_coarse"),
    )


register_folder_layout(
    "dnanet",
    "images/NAME.png, masks/NAME.png, and img_idx/{train,test}_SET.txt or 50_50/{train,test}.txt",
    _detect,
    _parts,
)
