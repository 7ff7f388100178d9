"""`istd points`: point labels from masks, or from one format to another."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from rich.console import Console
from rich.markup import escape

from . import options as opt

if TYPE_CHECKING:
    import numpy as np

    from ..data import Dataset, Record

    _Converted: TypeAlias = dict[str, Callable[[tuple[int, int]], np.ndarray]]
    """Name → what gives its points for the size of its image."""


class Source(StrEnum):
    """Where points come from."""

    centroid = "centroid"
    coarse = "coarse"
    given = "given"


def points(
    data: Annotated[
        Path, typer.Argument(help="Folder of a dataset or of images, or a packed .h5 file.", metavar="DATA")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="What to write: NAME.csv, NAME.json, or a folder for one PNG per image."),
    ],
    kind: Annotated[
        Source,
        typer.Option(
            "--kind",
            help="centroid or coarse: from the masks; given: the points that the dataset or --from has.",
        ),
    ] = Source.centroid,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Convert this file (CSV, JSON, COCO) or folder of point PNGs instead."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides coarse points.")] = 0,
    layout: opt.Layout = "",
    mask_threshold: opt.MaskThreshold = None,
    force: opt.Force = False,
) -> None:
    """Write one point per target: from masks, or converted from another format.

    A points.csv or points.json in the dataset's own folder is what training then uses. The output appears
    whole or not at all; with --force, images go into a folder that is there, beside what else it holds.

    Examples:

        istd points data/sirst --out data/sirst/points.csv --kind coarse --seed 1

        istd points data/mine --from export/coco.json --out data/mine/points.csv
    """
    from .._files import atomic_folder
    from ..data import open_dataset, write_point_image, write_points
    from ..engine.progress import Bars
    from ..errors import ConfigError

    console = Console()
    dataset = open_dataset(data, layout=layout or None, mask_threshold=mask_threshold)
    as_images = out.suffix == ""
    if not as_images and out.suffix.lower() not in (".csv", ".json"):
        raise ConfigError(
            "--out has another format", found=out.name, expected="a .csv or .json file, or a folder"
        )
    if out.exists() and not force and not (as_images and out.is_dir() and not any(out.iterdir())):
        raise ConfigError("--out exists", where=out, fix="add --force to replace it, or choose another")
    converted = None if source is None else _read_source(source, dataset.names)
    found: dict[str, np.ndarray] = {}
    sizes: dict[str, tuple[int, int]] = {}
    with Bars(console, "reading", len(dataset)) as bars:
        for name in dataset.names:
            record = dataset.read(name)
            some = _points_of(record, kind, seed, converted, dataset)
            if some is not None:
                _check_inside(record, some, source)
                found[name] = some
                sizes[name] = (record.image.shape[0], record.image.shape[1])
            bars.advance(f"reading {name}")
    if as_images:
        with atomic_folder(out) as partial:
            for name, some in found.items():
                write_point_image(partial / f"{name}.png", some, sizes[name])
    else:
        write_points(out, found)
    targets, empty = sum(map(len, found.values())), sum(not len(some) for some in found.values())
    console.print(
        f"{targets} points in {len(found)} images ({empty} without a target), written to {escape(str(out))}"
    )
    left_out = len(dataset) - len(found)
    if left_out:
        console.print(
            f"{left_out} images are not named there and stay left out: nothing says that they have no target"
        )


def _points_of(
    record: Record, kind: Source, seed: int, converted: _Converted | None, dataset: Dataset
) -> np.ndarray | None:
    """The points of an image; None where the source does not name it: perhaps nobody has looked at it."""
    from ..data import centroid_points, coarse_points, point_rng
    from ..errors import DataError

    if converted is not None:
        fitted = converted.get(record.name)
        return None if fitted is None else fitted((record.image.shape[0], record.image.shape[1]))
    if kind is Source.given:
        return None if record.name in dataset.unannotated else record.points
    if record.mask is None:
        raise DataError(
            f"the image {record.name} has no mask to take points from",
            expected="masks for all images, or --kind given, or --from FILE",
        )
    if kind is Source.centroid:
        return centroid_points(record.mask)
    return coarse_points(record.mask, point_rng(seed, record.name))


def _read_source(source: Path, names: tuple[str, ...]) -> _Converted:
    from ..data import IMAGE_SUFFIXES, read_point_image, read_points
    from ..data._names import composed
    from ..errors import DataError

    if not source.exists():
        raise DataError("there is no such file or folder", where=source, expected="points")
    if source.is_file():
        return {name: functools.partial(_as_given, some) for name, some in read_points(source, names).items()}
    files = {
        composed(path.stem): path
        for path in sorted(source.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    }
    strange = sorted(set(files) - set(names))
    if strange or not files:
        raise DataError(
            "the folder is not one of point images of this dataset",
            where=source,
            found=", ".join(strange[:5]) or "no image",
            expected="PNG files named as the images",
        )
    return {name: functools.partial(_scaled, *read_point_image(path), path) for name, path in files.items()}


def _as_given(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return points


def _scaled(points: np.ndarray, its_size: tuple[int, int], path: Path, size: tuple[int, int]) -> np.ndarray:
    """The points of an image of dots, in an image of another size."""
    from ..data import DataWarning
    from ..data._fit import fit_points

    if its_size == size:
        return points
    fitted = fit_points(points, its_size, size, path, path)
    warnings.warn(
        f"{path}: the points were scaled from {its_size[0]} × {its_size[1]} to the image's "
        f"{size[0]} × {size[1]}",
        DataWarning,
        stacklevel=2,
    )
    return fitted


def _check_inside(record: Record, some: np.ndarray, source: Path | None) -> None:
    from ..errors import DataError

    if len(some) and (some.min() < 0 or (some >= record.image.shape).any()):
        raise DataError(
            f"a point of {record.name} lies outside the image",
            where=source,
            found=some.tolist(),
            expected=f"rows (y, x) in an image of {record.image.shape[0]} × {record.image.shape[1]}",
            fix="see whether y and x were exchanged",
        )
