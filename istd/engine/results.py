"""What a finished run leaves: the results, the per-image table and the pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from .._csv import to_csv
from .._files import sealed, write_json, write_text
from .._provenance import provenance
from ..data import Dataset, ImageSet, Record, load_split
from ..metrics import MetricConvention
from ..models import FrozenVFM
from ..viz import (
    LabelStrip,
    Overlay,
    label_strips,
    most_changed,
    plot_curves,
    plot_gallery,
    plot_overlays,
    thin_out,
)
from .config import TrainConfig
from .corpus import Corpus, memory_left
from .detector import Detector, load_weights
from .evaluation import evaluate, probability_maps
from .label_state import LabelState, label_quality
from .position import Position
from .progress import Bars
from .ranks import Ranks
from .run_folder import RunFolder, read_lines
from .state_file import load_state
from .stopping import StopRequest
from .train_command import train_command

RESULTS_VERSION = 2
"""1 had no checksum."""


@dataclass(frozen=True)
class TrainedRun:
    """What the training loop hands over when it is done.

    Attributes:
        config, folder, corpus: what was asked for, where it lies, and the images.
        detector: the trained networks; the selected weights are loaded into them.
        labels: the labels as they ended, or None where there were none.
        vfm, vfm_fingerprint: the frozen model, or None.
        position: the last step, and which epoch was selected.
        selection: the rule by which it was.
        convention: of the metrics.
        device, console, stop: where it ran, where to print, and whether to stop.
        ranks: the processes, which share the images to evaluate; the first one writes.
        command: what makes such a run again; `train_command` if None.
    """

    config: TrainConfig
    folder: RunFolder
    corpus: Corpus
    detector: Detector
    labels: LabelState | None
    vfm: FrozenVFM | None
    vfm_fingerprint: str | None
    position: Position
    selection: str
    convention: MetricConvention
    device: torch.device
    console: Console
    stop: StopRequest
    ranks: Ranks
    command: str | None = None


def finish_run(run: TrainedRun) -> dict[str, Any]:
    """Evaluate the selected model on the test split and write results and pictures.

    This is the only place that looks at the test split, after everything has been chosen.
    """
    kind, path = (
        ("teacher", run.folder.teacher) if run.detector.has_teacher else ("student", run.folder.student)
    )
    load_weights(run.detector.model, load_state(path, kind=kind, device=run.device)["weights"], path)
    results = describe_run(run)
    with Bars(run.console, "evaluating the selected model", 1, should_stop=run.stop) as bars:
        _score(run, results, bars)
    return results


def _score(run: TrainedRun, results: dict[str, Any], bars: Bars) -> None:
    """Add the metrics to `results`, and write everything."""
    dataset = run.corpus.dataset
    # On the host: the network takes one image at a time. On a CPU the others are there too.
    held = (run.corpus.train, run.corpus.val) if run.device.type == "cpu" else ()
    left = memory_left(run.config, *held)
    test = load_split(dataset, "test", memory_gb=left) if dataset.splits["test"] else None
    for split, images, table in (("test", test, run.folder.per_image), ("val", run.corpus.val, None)):
        if images is not None and images.masks is not None:
            results["metrics"][split] = score_roles(run, images, bars, table)
        else:
            reason = results["not_evaluated"][split] = _why_not(dataset, split)
            run.console.print(f"[yellow]no metrics on the {split} split:[/yellow] {reason}")
    run.ranks.on_first(_write, run, results, run.corpus.val if test is None else test)


def _write(run: TrainedRun, results: dict[str, Any], shown: ImageSet) -> None:
    """Write results and pictures; `shown` are the images to show."""
    write_json(run.folder.results, sealed(results))
    plot_curves(list(read_lines(run.folder.log)), run.folder.curves, title=title(results))
    plot_overlays(make_overlays(run.detector, shown), run.folder.overlays)
    if run.labels is not None:
        plot_gallery(make_strips(run), run.folder.gallery)


def _why_not(dataset: Dataset, split: str) -> str:
    """Why there are no metrics: the split is empty, or so many of its images have no mask."""
    names = dataset.splits[split]
    lacking = sum(dataset.read(name).mask is None for name in names)
    return f"{lacking} of {len(names)} images have no mask" if names else "it has no images"


def title(results: dict[str, Any]) -> str:
    """One line that says what a run is."""
    config = results["config"]
    return f"{config['method']} · {config['backbone']} · seed {config['seed']}"


def describe_run(run: TrainedRun) -> dict[str, Any]:
    """All that a reader needs to judge and repeat the figures, without the figures."""
    position = run.position
    description: dict[str, Any] = {
        "version": RESULTS_VERSION,
        "config": run.config.to_dict(),
        "metrics": {},
        "not_evaluated": {},
        "convention": run.convention.to_dict(),
        "split_hash": run.corpus.split_hash,
        "data_hash": run.corpus.dataset.content_hash(),
        "images": {
            "train": len(run.corpus.train),
            "val": len(run.corpus.val),
            "test": len(run.corpus.dataset.splits["test"]),
        },
        "seed": run.config.seed,
        "selection": {"rule": run.selection, "epoch": position.best_epoch + 1, "score": position.best_score},
        "vfm": None
        if run.vfm is None
        else {"name": run.vfm.name, "random": run.vfm.is_random, "fingerprint": run.vfm_fingerprint},
        "seconds": round(position.seconds, 1),
        "device": str(run.device),
        "processes": run.ranks.size,
        **provenance(run.command or train_command(run.config, run.device, run.ranks.size), run.device),
    }
    if run.labels is not None:
        evolving = run.labels.evolving_indices
        description["labels"] = {
            "init": run.config.label_init,
            "settings": run.labels.store.settings["label_settings"],
            "trusted_masks": run.labels.store.settings.get("trusted_masks", []),
            "iou_train": label_quality(run.labels.train, run.corpus.train, evolving, run.ranks),
            "iou_val": label_quality(run.labels.val, run.corpus.val, ranks=run.ranks),
            "pool": len(run.labels.pool_indices),
            "versions": run.labels.store.latest + 1,
        }
    return description


def score_roles(run: TrainedRun, images: ImageSet, bars: Bars, table: Path | None = None) -> dict[str, Any]:
    """Metrics of the student, and of the teacher if any; the student's per-image table goes to `table`."""
    scores: dict[str, Any] = {}
    for role in ("student", "teacher") if run.detector.has_teacher else ("student",):
        scores[role], rows = evaluate(
            partial(run.detector.logits, role=role),
            images,
            run.convention,
            partial(bars, f"the {role}"),
            run.ranks,
        )
        if role == "student" and table is not None:
            run.ranks.on_first(write_text, table, to_csv(rows))
    return scores


def make_overlays(detector: Detector, images: ImageSet, count: int = 12) -> list[Overlay]:
    """The student's answers on images spread over the split."""
    chosen = np.unique(np.linspace(0, len(images.names) - 1, count).round().astype(int)).tolist()
    overlays = []
    for number, probability in probability_maps(detector.logits, images, only=chosen):
        record = _record(images, number)
        found = probability.cpu().numpy() > 0.5
        overlays.append(Overlay(record.name, record.image, found, record.mask, record.points))
    return overlays


def make_strips(run: TrainedRun, count: int = 8, columns: int = 6) -> list[LabelStrip]:
    """Windows of the training images with points whose labels changed most often, over time."""
    assert run.labels is not None
    store, train = run.labels.store, run.corpus.train
    numbers = {name: i for i, name in enumerate(train.names) if len(train.points[i])}
    records = (_record(train, numbers[name]) for name in most_changed(store, count, numbers))
    return thin_out(label_strips(store, records), columns)


def _record(images: ImageSet, number: int) -> Record:
    return Record(
        images.names[number],
        images.images.image(number).cpu().numpy(),
        None if images.masks is None else images.masks.image(number).cpu().numpy() > 0,
        images.points[number],
    )
