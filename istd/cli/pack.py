"""`istd pack`: a whole dataset in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from . import options as opt


def pack_dataset(
    data: Annotated[Path, typer.Argument(help="Folder of a dataset.", metavar="DATA")],
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; NAME.h5 beside the folder by default.")
    ] = None,
    layout: opt.Layout = "",
    mask_threshold: opt.MaskThreshold = None,
    force: opt.Force = False,
) -> None:
    """Pack images, masks, points and splits into one compressed, checksummed HDF5 file.

    Every command takes the file in place of the folder; also where training needs a folder's --layout or
    --mask-threshold, which it has not itself. The file appears whole or not at all: after Ctrl-C nothing
    is left behind, and an existing file is untouched.

    Examples:

        istd pack data/sirst

        istd pack data/mine --layout dnanet --mask-threshold 0.5 --out fast/mine.h5 --force
    """
    from ..data import open_dataset, pack
    from ..engine.progress import Bars
    from ..errors import ConfigError

    console = Console()
    dataset = open_dataset(data, layout=layout or None, mask_threshold=mask_threshold)
    folder = data.expanduser().resolve()
    target = out or folder.with_name(f"{folder.name if folder.is_dir() else folder.stem + '-packed'}.h5")
    if target.exists() and not force:
        raise ConfigError(
            "the file exists", where=target, fix="add --force to replace it, or give another --out"
        )
    with Bars(console, "packing", len(dataset)) as bars:
        packed = pack(dataset, target, progress=lambda done, total: bars.advance(f"packing {done}/{total}"))
    size = target.stat().st_size / 2**20
    console.print(f"{len(packed)} images, {size:.1f} MiB, written to {escape(str(target))}")
