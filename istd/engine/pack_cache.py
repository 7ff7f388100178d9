"""Folders of images packed once, and kept between runs."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

from .._cache import evict, touch
from .._files import remove_stale_partials
from ..data import PACKED_VERSION, Dataset, DataWarning, PackedDataset, open_dataset, pack
from ..errors import DataError, WriteError

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much is done, how much there is)."""

MAX_BYTES = 20 * 2**30
"""What all packed folders together may take."""

_OURS = re.compile(r".+-[0-9a-f]{8}-[0-9a-f]{16}-\d+\.h5")


def packed(path: str | Path, progress: Progress | None = None) -> Dataset:
    """The dataset at `path` in packed form: a packed file as it is, a folder packed once into the cache.

    The cache lies in `$ISTD_CACHE`, else in `$XDG_CACHE_HOME/istd`, else in `~/.cache/istd`. A folder whose
    splits, points or files have changed gets a new file in place of its old one; a damaged file is made
    again. Above 20 GiB in all, the folders that were not used for longest lose theirs.
    """
    dataset = open_dataset(path)
    key = None if isinstance(dataset, PackedDataset) else dataset.content_key()
    if key is None:
        return dataset
    root = dataset.root.resolve()
    folder = f"{root.name}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:8]}"
    target = cache_dir() / f"{folder}-{key[:16]}-{PACKED_VERSION}.h5"
    if target.exists():
        try:
            found = PackedDataset(target)
        except DataError:
            target.unlink()
        else:
            touch(target)
            return found
    report = None if progress is None else lambda done, total: progress("packing images", done, total)
    remove_stale_partials(target.parent)
    try:
        with warnings.catch_warnings():
            # What had to be mended is said when the packed image is read, not twice.
            warnings.simplefilter("ignore", DataWarning)
            made = pack(dataset, target, progress=report)
    except WriteError as error:
        raise WriteError(
            "the packed images cannot be kept",
            where=target,
            found=error.found,
            fix="set ISTD_CACHE to a folder that can be written",
        ) from error
    _make_room(target, folder)
    return made


def _make_room(kept: Path, folder: str) -> None:
    """Remove what `kept` replaces, then the least recently used files above the limit."""
    others = [path for path in kept.parent.glob("*.h5") if _OURS.fullmatch(path.name) and path != kept]
    old = [path for path in others if path.name.rsplit("-", 2)[0] == folder]
    evict(old, MAX_BYTES)
    rest = [path for path in others if path not in old]
    evict(rest, sum(path.stat().st_size for path in (kept, *rest)) - MAX_BYTES)


def cache_dir() -> Path:
    """Where packed datasets are kept between runs."""
    if "ISTD_CACHE" in os.environ:
        return Path(os.environ["ISTD_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "istd"
