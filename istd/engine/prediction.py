"""A trained detector on a person's own images: masks, overlays and a table of targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from .._files import write_bytes, write_text
from ..data import IMAGE_SUFFIXES, read_gray
from ..errors import DataError, IstdError
from ..targets import Target, list_targets
from ..viz import Overlay, draw_overlay
from .detector import Detector
from .evaluation import probability_map
from .results import to_csv

COLUMNS = ("image", "x", "y", "area", "score")


@dataclass
class Predictions:
    """What `predict_images` did.

    Attributes:
        targets: pairs (image name, target), in the order of the images.
        failures: pairs (path, error) of the images that could not be read.
        images: how many images were answered.
    """

    targets: list[tuple[str, Target]] = field(default_factory=list)
    failures: list[tuple[Path, IstdError]] = field(default_factory=list)
    images: int = 0


def find_images(sources: Iterable[str | Path]) -> list[Path]:
    """Image files among `sources`; a folder stands for the images directly in it, in order of their names.

    Raises:
        DataError: a source does not exist, or there is no image at all.
    """
    found: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            found += sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        elif source.is_file():
            found.append(source)
        else:
            raise DataError("there is no such image or folder", where=source)
    if not found:
        raise DataError(
            "there is no image to look at",
            found=", ".join(map(str, sources)),
            expected=f"files ending in {', '.join(IMAGE_SUFFIXES)}",
        )
    return found


def predict_images(
    detector: Detector,
    paths: Sequence[Path],
    out: str | Path,
    *,
    role: str = "student",
    threshold: float = 0.5,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Detect in `paths` and write `masks/`, `overlays/` and `targets.csv` into `out`.

    An image that cannot be read is noted and the others go on; two images of one name get numbered files.

    Args:
        detector: from `load_detector`.
        paths: image files, 8 or 16 bit.
        out: the folder to write.
        role: whose answer, "student" or "teacher".
        threshold: probability above which a pixel belongs to a target.
        device: where the detector is.
        progress: called with (done, total).
    """
    folder = Path(out)
    done = Predictions()
    taken: set[str] = set()
    try:
        for number, path in enumerate(paths):
            try:
                image = read_gray(path)
            except IstdError as error:
                done.failures.append((path, error))
            else:
                name = _free_name(path.stem, taken)
                pixels = torch.from_numpy(image).to(device)
                probability = probability_map(partial(detector.logits, role=role), pixels).cpu().numpy()
                mask = probability > threshold
                _write_png(folder / "masks" / f"{name}.png", mask.astype(np.uint8) * 255)
                picture = draw_overlay(Overlay(name, image, mask))
                _write_png(folder / "overlays" / f"{name}.png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                done.targets += [(name, target) for target in list_targets(probability, threshold)]
                done.images += 1
            if progress is not None:
                progress(number + 1, len(paths))
    finally:
        # Also after Ctrl-C: what has been found is worth keeping.
        rows = [dict(zip(COLUMNS, (name, *_cells(target)), strict=True)) for name, target in done.targets]
        text = to_csv(rows) if rows else ",".join(COLUMNS) + "\n"
        write_text(folder / "targets.csv", text)
    return done


def _cells(target: Target) -> tuple[str, str, int, str]:
    return f"{target.x:.2f}", f"{target.y:.2f}", target.area, f"{target.score:.4f}"


def _free_name(stem: str, taken: set[str]) -> str:
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    taken.add(name)
    return name


def _write_png(path: Path, pixels: np.ndarray) -> None:
    encoded, data = cv2.imencode(".png", pixels)
    if not encoded:
        raise DataError("the picture could not be encoded", where=path, found=pixels.shape)
    write_bytes(path, data.tobytes())
