"""Every step of a run over images in number: what each of them costs, and what memory each of them takes.

There is no network: a threshold on gray levels stands in for it, since its cost and memory do not depend on
the number of images.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from istd.data import ImageSet, PackedDataset, distractors_of, pack
from istd.engine import TrainConfig
from istd.engine.batches import open_stream
from istd.engine.corpus import cluster_images, load_corpus
from istd.engine.evaluation import evaluate
from istd.engine.label_state import resume_labels, start_labels, update_labels
from istd.metrics import MetricConvention
from istd.targets import ImageTargets, list_targets, to_json

from .images import GeneratedImages
from .rows import Job, Recorder, Row

CELL = "growth"
DESCRIBING = "describing for the clusters"
_BATCHES = 8


def jobs(quick: bool) -> list[Job]:
    """The same images few and many, in memory and streamed: growth is the difference."""
    counts, side = ((64, 192), 128) if quick else ((100, 500), 256)
    return [{"images": count, "side": side, "streamed": mode} for mode in (False, True) for count in counts]


def measure(job: Job) -> list[Row]:
    """Pack, load, make labels, move them, evaluate, cluster, and cut batches."""
    at = {name: job[name] for name in ("images", "side", "streamed")}
    rows = Recorder(CELL, at)
    folder, cpu = Path(job["folder"]), torch.device("cpu")
    packed, store = folder / "packed.h5", folder / "labels.h5"
    made = GeneratedImages(job["images"], (job["side"], job["side"]))
    warm = GeneratedImages(8, (job["side"], job["side"]))
    _warm_up(warm, folder, job)
    rows.measure("packing", lambda: pack(made, packed), len(made))
    rows.rows[-1].disk = packed.stat().st_size
    rows.measure("opening a packed file", lambda: PackedDataset(packed), len(made))
    config = _config(packed, job)
    corpus = rows.measure("loading", lambda: load_corpus(config, cpu), int(0.8 * len(made)))
    used = len(corpus.train) + len(corpus.val)
    state = rows.measure("first labels", lambda: start_labels(store, corpus, config, cpu), used)
    rows.rows[-1].disk = store.stat().st_size
    for epoch in (1, 2):
        before = store.stat().st_size
        evolve = partial(update_labels, state, corpus, config, epoch, _answer)
        rows.measure("evolving labels", evolve, used)
        rows.rows[-1].disk = store.stat().st_size - before
    version = state.store.latest
    rows.measure("resuming labels", lambda: resume_labels(store, version, corpus, cpu), used)
    rows.measure("evaluating", lambda: evaluate(_answer, corpus.train, MetricConvention()), len(corpus.train))
    rows.measure("tables of `istd predict`", lambda: _tables(corpus.train), len(corpus.train))
    spots = rows.measure("distractors", lambda: distractors_of(corpus.train), len(corpus.train))
    stream = rows.measure(
        "opening a stream of crops",
        lambda: open_stream(
            "train",
            config,
            corpus.train,
            state.train,
            state.pool_indices,
            torch.zeros(len(corpus.train), dtype=torch.int64),
            lambda batch: None,
            distractors=spots,
        ),
        len(corpus.train),
    )
    stream.batch(0)
    rows.measure("cutting a crop", partial(_cut, stream, _BATCHES), _BATCHES * config.batch_size)
    if not job["streamed"]:  # most of the time, and the same wherever the pixels are
        rows.measure(DESCRIBING, lambda: cluster_images(corpus.train, 4, 0), len(corpus.train))
    return rows.rows


def _warm_up(made: GeneratedImages, folder: Path, job: Job) -> None:
    """What libraries set up once is not counted."""
    config, cpu = _config(folder / "warm.h5", job), torch.device("cpu")
    pack(made, folder / "warm.h5")
    corpus = load_corpus(config, cpu)
    state = start_labels(folder / "warm-labels.h5", corpus, config, cpu)
    update_labels(state, corpus, config, 1, _answer)
    evaluate(_answer, corpus.train, MetricConvention())
    cluster_images(corpus.train, 2, 0)


def _config(packed: Path, job: Job) -> TrainConfig:
    return TrainConfig(
        data=str(packed), epochs=10, crop=64, batch_size=16, memory_gb=0.0 if job["streamed"] else 1e3
    )


def _tables(images: ImageSet) -> int:
    """What `istd predict` keeps of all images until it writes its tables, and the largest of them as text."""
    answers = []
    for number, (height, width) in enumerate(images.images.sizes):
        probability = torch.sigmoid(_answer(images.images.image(number).float() / 255)).numpy()
        name = images.names[number]
        answers.append(
            ImageTargets(name, f"images/{name}.png", height, width, tuple(list_targets(probability)))
        )
    return len(json.dumps(to_json(answers), indent=2))


def _cut(stream: object, count: int) -> None:
    for step in range(count):
        stream.batch(step)  # type: ignore[attr-defined]


def _answer(image: Tensor) -> Tensor:
    """Logits of a threshold on gray levels, float [B, 1, H, W]."""
    return (image * 255 - 150) / 10
