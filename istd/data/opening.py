"""One way in: a path to a dataset, whatever it is."""

from __future__ import annotations

from pathlib import Path

from .._paths import given_path
from ..errors import ConfigError, DataError
from .dataset import Dataset
from .layouts import find_layout
from .packed import PackedDataset


def open_dataset(
    path: str | Path, *, layout: str | None = None, mask_threshold: float | None = None
) -> Dataset:
    """Open a folder, whose layout is found by looking at it, or a file written by `pack`.

    Only names are looked at here; images are read when asked for.

    Args:
        path: the dataset's folder, or a packed `.h5` file.
        layout: the name of a layout (`list_layouts()`) instead of looking.
        mask_threshold: None, or where to cut masks with soft edges, in (0, 1); see `istd.data.read_mask`.

    Raises:
        DataError: nothing there, no layout fits, a split that names a missing image or one image twice.
        ConfigError: a threshold outside (0, 1).
    """
    path = given_path(path)
    check_mask_threshold(mask_threshold)
    if path.is_file():
        return PackedDataset(path)
    if not path.is_dir():
        raise DataError("there is no such folder or file", where=path, expected="a dataset")
    try:
        return find_layout(path, layout).open(path, mask_threshold)
    except OSError as error:
        raise DataError("the dataset cannot be looked at", where=path, found=error) from error


def check_mask_threshold(threshold: float | None) -> None:
    """Raise `ConfigError` unless the threshold is None or in (0, 1)."""
    if threshold is not None and not 0 < threshold < 1:
        raise ConfigError("mask_threshold is a part of the maximum", found=threshold, expected="in (0, 1)")
