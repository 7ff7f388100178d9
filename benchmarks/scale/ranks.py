"""A training epoch and a label evolution against the number of processes that share them (gloo, CPU)."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from common.processes import ending

from istd.data import pack
from istd.engine import Detector, TrainConfig
from istd.engine.batches import Stream, open_stream
from istd.engine.corpus import Corpus, load_corpus
from istd.engine.detector import build_model, build_vfm, make_header, to_fast_layout
from istd.engine.features import live_features
from istd.engine.label_state import start_labels, update_labels
from istd.engine.methods import Method, method_class
from istd.engine.process_group import open_ranks
from istd.engine.ranks import Ranks
from istd.engine.runtime import tune_allocator
from istd.models._joint_norm import join_norms

from .images import GeneratedImages
from .rows import Job, Recorder, Row

CELL = "ranks"
SET_UP, EPOCH, EVOLUTION = "setting up", "an epoch", "an evolution of all labels"
_CPU = torch.device("cpu")
_TIMEOUT = 600.0


def jobs(quick: bool) -> list[Job]:
    """The same run by one process and by two."""
    size: dict[str, Any] = {"images": 160, "side": 128, "crop": 64, "batch": 16}
    size |= {"vfm": "random:vit_small_plus_patch16_dinov3"}
    if quick:
        size |= {"images": 10, "side": 48, "crop": 32, "batch": 4, "vfm": "random:test_vit"}
    return [{"ranks": count, **size} for count in (1, 2)]


def measure(job: Job) -> list[Row]:
    """The rows of every process; of each the best of two repeats."""
    folder = Path(job["folder"])
    _start([lambda: _pack(job)])
    address = {"WORLD_SIZE": str(job["ranks"]), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}

    def act(rank: int) -> Callable[[], None]:
        return lambda: _run(job, {**address, "RANK": str(rank)}, folder / f"rank-{rank}.json")

    _start([act(rank) for rank in range(job["ranks"])])
    found = [folder / f"rank-{rank}.json" for rank in range(job["ranks"])]
    return [Row(**row) for path in found for row in json.loads(path.read_text(encoding="utf-8"))]


def processors() -> tuple[int, int]:
    """How many processors this process may use, and how many cores these are; 0 cores if that is not said."""
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    siblings = [Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list") for number in own]
    try:
        return len(own), len({path.read_text(encoding="utf-8").strip() for path in siblings})
    except OSError:
        return len(own), 0


def _start(acts: list[Callable[[], None]]) -> None:
    """Do things at the same time, each in a fork of this process, which has done nothing yet."""
    forks = multiprocessing.get_context("fork")
    processes = [forks.Process(target=act) for act in acts]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    for process in processes:
        if process.exitcode:
            raise RuntimeError(ending(process.exitcode))


def _pack(job: Job) -> None:
    pack(GeneratedImages(job["images"], (job["side"], job["side"])), Path(job["folder"], "packed.h5"))


def _run(job: Job, environment: dict[str, str], result: Path) -> None:
    """Measure what one process does, and write its rows."""
    os.environ.update(environment)
    tune_allocator()  # as `istd train` does
    torch.manual_seed(0)
    config = TrainConfig(
        data=str(Path(job["folder"], "packed.h5")),
        crop=job["crop"],
        batch_size=job["batch"],
        vfm=job["vfm"],
        memory_gb=1e3,
    )
    with open_ranks(_CPU, _TIMEOUT) as ranks:
        count, cores = processors()
        at = {"ranks": ranks.size, "rank": ranks.rank, "processors": count, "cores": cores}
        at |= {name: job[name] for name in ("images", "side", "crop", "batch")}
        rows = Recorder(CELL, at)
        run = rows.measure(SET_UP, lambda: _Run(config, Path(job["folder"]), ranks))
        rows.best(EPOCH, run.train, 2, run.steps)
        rows.best(EVOLUTION, run.evolve, 2, len(run.corpus.train) + len(run.corpus.val))
    result.write_text(json.dumps([asdict(row) for row in rows.rows]), encoding="utf-8")


class _Run:
    """What `istd train` has when it begins its first epoch."""

    def __init__(self, config: TrainConfig, folder: Path, ranks: Ranks) -> None:
        self.config = config
        self.ranks = ranks
        self.corpus: Corpus = load_corpus(config, _CPU, ranks=ranks)
        self.steps = len(self.corpus.train) // config.batch_size
        vfm = build_vfm(config, _CPU)
        model = to_fast_layout(build_model(config, vfm, self.corpus.mean, self.corpus.std))
        if ranks.size > 1:
            join_norms(model)
        self.method: Method = method_class(config.method).build(config, model, 1)
        header = make_header(config, vfm, self.corpus.mean, self.corpus.std, self.corpus.split_hash)
        self.detector = Detector(model, vfm, header)
        self.labels = start_labels(folder / "labels.h5", self.corpus, config, _CPU, ranks=ranks)
        self.stream: Stream = open_stream(
            "train",
            config,
            self.corpus.train,
            self.labels.train,
            self.labels.pool_indices,
            torch.zeros(len(self.corpus.train), dtype=torch.int64),
            live_features(vfm),
            ranks=ranks,
        )

    def train(self) -> None:
        """All steps of an epoch."""
        for step in range(self.steps):
            batch = self.stream.batch(step)
            with self.ranks.sharing():
                self.method.train_step(batch)

    def evolve(self) -> None:
        """New labels of all images, with the network's answers."""
        update_labels(self.labels, self.corpus, self.config, 1, self._answer, ranks=self.ranks)

    def _answer(self, image: torch.Tensor) -> torch.Tensor:
        return self.detector.logits(image, self.method.labeller)


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
