"""With and without cached hidden maps: time of a training step, and what comes out of training.

    python benchmarks/vfm_cache_bench.py --help

Both ways start from the same seed and see the same crops up to their alignment. Steps are timed in turns, so
that a change of the machine's load meets both; CPU seconds of the process depend less on other programs.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from common.command import origin
from rich.console import Console
from rich.table import Table

from istd._files import write_json
from istd.data import SyntheticDataset, pack
from istd.engine import TrainConfig, Trainer, load_corpus
from istd.engine.batches import open_stream
from istd.engine.detector import build_model, build_vfm
from istd.engine.features import open_features
from istd.engine.methods import SemanticPrior
from istd.models import TeacherStudent

MODES = ("off", "full-image")


def main(
    data: Annotated[str, typer.Option(help="A dataset with masks; generated images if not given.")] = "",
    vfm: Annotated[str, typer.Option(help="The frozen model.")] = "random:vit_small_plus_patch16_dinov3",
    backbone: str = "mlclnet",
    crop: int = 128,
    batch_size: int = 8,
    steps: Annotated[int, typer.Option(help="Timed steps each way, after two that are not timed.")] = 8,
    epochs: Annotated[int, typer.Option(help="Length of the runs to compare; 0 times steps only.")] = 10,
    seeds: int = 2,
    size: Annotated[int, typer.Option(help="Side of generated images.")] = 192,
    out: Annotated[Path | None, typer.Option(help="A .json file for the tables.")] = None,
) -> None:
    """Print three tables: time of a step, how far the maps are apart, and what training comes to."""
    console = Console()
    tables: list[Table] = []

    def show(table: Table) -> None:
        tables.append(table)
        console.print(table)

    now = origin("vfm_cache_bench.py", None, threads=torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("ISTD_CACHE", f"{folder}/cache")
        if not data:
            data = f"{folder}/synthetic.h5"
            images = SyntheticDataset(num_train=48, num_val=4, num_test=32, size=(size, size), seed=0)
            pack(images, Path(data))
        common: dict[str, Any] = {"data": data, "vfm": vfm, "backbone": backbone, "selection": "last"}
        common |= {"crop": crop, "batch_size": batch_size, "epochs": max(epochs, 1), "hypergradient": "off"}
        common |= {"lr": 2e-3, "lr_schedule": "cosine"}
        runs = {mode: Run(TrainConfig(**{**common, "vfm_cache": mode})) for mode in MODES}
        show(_times(runs, steps))
        show(_distances(runs, steps))
        if epochs:
            configs = {mode: run.config for mode, run in runs.items()}
            show(_results(configs, seeds, Path(folder)))
        if out is not None:
            settings = {**common, "data": Path(data).name, "seeds": list(range(seeds)), "steps": steps}
            content = {**now, "settings": settings, "split_hash": runs["off"].split_hash}
            write_json(out, {**content, "tables": [_data(table) for table in tables]})


class Run:
    """What one way needs to take steps outside of a training run."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        device = torch.device("cpu")
        corpus = load_corpus(config, device)
        self.split_hash = corpus.split_hash
        if corpus.train.masks is None:
            raise typer.BadParameter("give a dataset with masks", param_hint="--data")
        self.vfm = build_vfm(config, device)
        torch.manual_seed(0)
        model = build_model(config, self.vfm, corpus.mean, corpus.std)
        assert isinstance(model, TeacherStudent)
        source = open_features(config, self.vfm, corpus)
        clusters = torch.zeros(len(corpus.train), dtype=torch.int64)
        plain = dataclasses.replace(config, augment=False)
        self.stream, self.plain = (
            open_stream(
                "train", one, corpus.train, corpus.train.masks, None, clusters, source.train, source.align
            )
            for one in (config, plain)
        )
        self.method = SemanticPrior(config, model, 1)


def _data(table: Table) -> dict[str, Any]:
    """A table as plain values."""
    columns = [str(column.header) for column in table.columns]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    return {"title": str(table.title), "rows": [dict(zip(columns, row, strict=True)) for row in rows]}


def _times(runs: dict[str, Run], steps: int) -> Table:
    taken: dict[str, list[tuple[float, float, float]]] = {mode: [] for mode in runs}
    for step in range(steps + 2):
        for mode, run in runs.items():
            cpu = [time.process_time()]
            batch = run.stream.batch(step)
            cpu.append(time.process_time())
            start = time.perf_counter()
            run.method.train_step(batch)
            cpu.append(time.process_time())
            if step >= 2:
                taken[mode].append((cpu[1] - cpu[0], cpu[2] - cpu[1], time.perf_counter() - start))
    table = Table("vfm_cache", "batch with maps, CPU s", "step on it, CPU s", "the same, s", title="medians")
    for mode, rows in taken.items():
        table.add_row(mode, *(f"{statistics.median(column):.3f}" for column in zip(*rows, strict=True)))
    return table


@torch.no_grad()
def _distances(runs: dict[str, Run], steps: int) -> Table:
    """Crops as they are, before augmentation: maps cut from the image's against those of the crop."""
    run = runs["full-image"]
    model = run.method.model
    assert run.vfm is not None
    assert isinstance(model, TeacherStudent)
    model.eval()
    maps, logits = [], []
    for step in range(steps):
        batch = run.plain.batch(step)
        assert batch.maps is not None
        cut, own = batch.maps.float(), run.vfm(batch.image)
        maps.append(float((cut - own).norm() / own.norm()))
        teacher = [model.teacher_logits(batch.image, one) for one in (cut, own)]
        student = model.student_logits(batch.image)
        logits.append(float((teacher[0] - teacher[1]).norm() / (teacher[1] - student).norm()))
    table = Table("relative distance of", "mean", title="cut from the image's maps, against the crop's own")
    table.add_row("hidden maps", f"{statistics.mean(maps):.1e}")
    table.add_row(
        "the teacher's logits, of their distance to the student's", f"{statistics.mean(logits):.1e}"
    )
    return table


def _results(configs: dict[str, TrainConfig], seeds: int, folder: Path) -> Table:
    table = Table("vfm_cache", "seed", "student IoU", "student Pd", "teacher IoU", "teacher Pd", title="test")
    for seed in range(seeds):
        for mode, config in configs.items():
            made = TrainConfig.from_dict({**config.to_dict(), "seed": seed})
            results = Trainer(made, folder / f"{mode}-{seed}", console=Console(quiet=True)).fit()
            scores = results["metrics"]["test"]
            values = [f"{scores[role][key]:.3f}" for role in ("student", "teacher") for key in ("iou", "pd")]
            table.add_row(mode, str(seed), *values)
    return table


if __name__ == "__main__":
    typer.run(main)
