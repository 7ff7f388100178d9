"""A trained detector on a person's own images: masks, overlays and tables of targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from .._files import write_bytes, write_json, write_text
from .._regions import check_connectivity
from ..data import read_gray
from ..errors import ConfigError, DataError, IstdError
from ..targets import ImageTargets, draw_targets, list_targets, to_coco, to_csv, to_json
from ..viz import Overlay, draw_overlay
from .detector import Detector
from .image_files import name_answers
from .prediction_log import PredictionLog
from .tiling import Tiling, probability_maps_of

PICTURES = ("masks", "overlays", "probabilities")
TABLES = ("csv", "json", "coco")


@dataclass(frozen=True)
class PredictOptions:
    """What to find and what to write.

    Attributes:
        role: whose answer, "student" or "teacher".
        threshold: probability above which a pixel belongs to a target.
        connectivity: 8 or 4, of targets.
        min_area: smaller targets are left out of tables and masks.
        tiling: how large images are cut; its `stride` is replaced by the detector's.
        pictures: of `PICTURES`; probabilities are 16-bit PNG, 65535 is 1.
        tables: of `TABLES`.
        skip_existing: keep the answers that are in the folder already.

    Raises:
        ConfigError: an unknown picture or table, or a number out of range.
    """

    role: str = "student"
    threshold: float = 0.5
    connectivity: int = 8
    min_area: int = 1
    tiling: Tiling = field(default_factory=Tiling)
    pictures: tuple[str, ...] = ("masks", "overlays")
    tables: tuple[str, ...] = TABLES
    skip_existing: bool = False

    def __post_init__(self) -> None:
        if self.role not in ("student", "teacher"):
            raise ConfigError("--role is unknown", found=self.role, expected="student | teacher")
        real = isinstance(self.threshold, int | float) and not isinstance(self.threshold, bool)
        if not (real and 0.0 <= self.threshold <= 1.0):
            raise ConfigError("--threshold is a probability", found=self.threshold, expected="0 to 1")
        if type(self.min_area) is not int or self.min_area < 1:
            raise ConfigError("--min-area is too small", found=self.min_area, expected="at least 1")
        check_connectivity(self.connectivity)
        for name, values, known in (("save", self.pictures, PICTURES), ("table", self.tables, TABLES)):
            given = values if isinstance(values, Sequence) else (values,)
            unknown = [str(value) for value in given if value not in known]
            if unknown:
                raise ConfigError(
                    f"--{name} is unknown", found=", ".join(unknown), expected=" | ".join(known)
                )


@dataclass
class Predictions:
    """What `predict_images` did.

    Attributes:
        answers: the targets of each image that could be read, in the order of the paths.
        failures: pairs (path, error) of those that could not.
        skipped: how many of the answers were there already.
    """

    answers: list[ImageTargets] = field(default_factory=list)
    failures: list[tuple[Path, IstdError]] = field(default_factory=list)
    skipped: int = 0

    @property
    def num_targets(self) -> int:
        """How many targets all images have together."""
        return sum(len(answer.targets) for answer in self.answers)


def predict_images(
    detector: Detector,
    paths: Sequence[Path],
    out: str | Path,
    options: PredictOptions | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Predictions:
    """Detect in `paths` and write pictures and tables into `out`.

    Each image's answer is on disk before the next batch begins. An image that cannot be read is noted and the
    others go on; two images of one name get numbered files. Tables are written at the end, also after Ctrl-C.

    Args:
        detector: from `load_detector`.
        paths: image files, 8 or 16 bit.
        out: the folder to write: `masks/`, `overlays/`, `targets.csv`, `targets.json`, `targets.coco.json`,
            and `predictions.jsonl`, by which `skip_existing` knows what is there.
        options: what to find and to write.
        device: where the detector is.
        progress: called with (done, total).
        about: what `provenance.json` is to say; None writes none.

    Raises:
        ConfigError: `skip_existing` in a folder of answers by other weights or settings.
        WriteError: the disk refused.
    """
    options = options if options is not None else PredictOptions()
    folder, done = Path(out), Predictions()
    tiling = Tiling(**{**asdict(options.tiling), "stride": detector.stride})
    log = PredictionLog(
        folder / "predictions.jsonl", _settings(detector, options, tiling), options.skip_existing
    )
    if about is not None:  # only now: of answers that are refused it would say what is not so
        write_json(folder / "provenance.json", about)
    answering = detector.deployed() if options.role == "student" else detector
    predict = partial(answering.logits, role=options.role)
    names = name_answers(paths)
    try:
        for start in range(0, len(paths), tiling.batch_size):
            waiting: list[tuple[str, Path, np.ndarray]] = []
            slots: dict[str, ImageTargets] = {}
            chunk = range(start, min(start + tiling.batch_size, len(paths)))
            for number in chunk:
                name, path = names[number], paths[number]
                known = log.find(name, path)
                if known is not None and all(
                    _picture(folder, kind, name).is_file() for kind in options.pictures
                ):
                    slots[name] = known
                    done.skipped += 1
                    continue
                try:
                    waiting.append((name, path, read_gray(path)))
                except IstdError as error:
                    done.failures.append((path, error))
            pixels = [torch.from_numpy(image).to(device) for _, _, image in waiting]
            maps = probability_maps_of(predict, pixels, tiling)
            for (name, path, image), probability in zip(waiting, maps, strict=True):
                slots[name] = _write(folder, name, path, image, probability.cpu().numpy(), options)
                log.add(path, slots[name])
            done.answers += [slots[names[number]] for number in chunk if names[number] in slots]
            if progress is not None:
                progress(chunk.stop, len(paths))
    finally:
        _write_tables(folder, done.answers, options.tables)
    return done


def _settings(detector: Detector, options: PredictOptions, tiling: Tiling) -> dict[str, Any]:
    """What an answer depends on. The batch size is not in it."""
    return {
        "weights": detector.fingerprint(),
        "role": options.role,
        "threshold": options.threshold,
        "connectivity": options.connectivity,
        "min_area": options.min_area,
        "tile": tiling.tile,
        "overlap": tiling.overlap if tiling.tile else 0,
        "tta": tiling.flips,
    }


def _picture(folder: Path, kind: str, name: str) -> Path:
    return folder / kind / f"{name}.png"


def _write(
    folder: Path, name: str, source: Path, image: np.ndarray, probability: np.ndarray, options: PredictOptions
) -> ImageTargets:
    """Write the pictures of one image; its targets."""
    targets = list_targets(probability, options.threshold, options.connectivity, options.min_area)
    mask = draw_targets(targets, (image.shape[0], image.shape[1]))
    if "masks" in options.pictures:
        _write_png(_picture(folder, "masks", name), mask.astype(np.uint8) * 255)
    if "overlays" in options.pictures:
        picture = draw_overlay(Overlay(name, image, mask))
        _write_png(_picture(folder, "overlays", name), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if "probabilities" in options.pictures:
        levels = np.rint(probability * 65535).astype(np.uint16)
        _write_png(_picture(folder, "probabilities", name), levels)
    return ImageTargets(name, str(source), image.shape[0], image.shape[1], tuple(targets))


def _write_tables(folder: Path, answers: Sequence[ImageTargets], tables: Sequence[str]) -> None:
    if "csv" in tables:
        write_text(folder / "targets.csv", to_csv(answers))
    if "json" in tables:
        write_json(folder / "targets.json", to_json(answers))
    if "coco" in tables:
        write_json(folder / "targets.coco.json", to_coco(answers))


def _write_png(path: Path, pixels: np.ndarray) -> None:
    encoded, data = cv2.imencode(".png", pixels)
    if not encoded:
        raise DataError("the picture could not be encoded", where=path, found=pixels.shape)
    write_bytes(path, data.tobytes())
