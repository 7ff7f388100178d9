"""Runs that several processes make together and one makes alone; as a program, DATA OUT under torchrun.

With a third argument it is a run in which one process fails (`fail_in_one`).
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from istd.data import SyntheticDataset, pack
from istd.engine import RunFolder, TrainConfig, Trainer, label_state, load_corpus, load_state, results
from istd.engine.batches import Stream, TrainBatch
from istd.engine.label_state import label_quality, start_labels, update_labels
from istd.engine.methods import Method, PlainMethod, register_method
from istd.engine.methods.registry import _METHODS
from istd.engine.presets import METHOD_PRESETS
from istd.engine.process_group import launched, open_ranks
from istd.engine.progress import Bars
from istd.engine.ranks import ALONE, Ranks
from istd.errors import DataError, IstdError, ProcessError
from istd.losses import bce_loss, hard_bce_loss
from istd.models import Backbone, FeatureInfo, final_logits, register_model
from istd.models.registry import _ENTRYPOINTS
from istd.models.repisdnet import PooledNorm

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "backbone": "speck",
    "modulation_scale": 0.5,
    "epochs": 2,
    "crop": 32,
    "batch_size": 4,
    "vfm": "random:test_vit",
    "evolve_every": 1,
    "outer_every": 1,
    "outer_steps": 1,
    "clusters": 2,
    "eval_every": 1,
    "ema": 0.9,
    "lr": 1e-2,
    "outer_lr": 0.1,
    "prior": None,
    "precision": "float64",
    "device": "cpu",
    "checkpoint_seconds": 0,
}
PRIOR = {"method": "semantic-prior", "outer_steps": 2}
RUNS: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "backbone": "mlclnet", "loss": "bce-iou", "distractor_fraction": 0.3},
    "lesps": {"method": "lesps", "evolve_loss": 1e9, "ema": 0.0, "lr": 1e-3, "epochs": 3},
    "pal": {"method": "pal", "label_init": "canny", "lock": "saturated", "trusted_masks": 2},
    "gauss-newton": {**PRIOR, "hypergradient": "gauss-newton"},
    "unrolled": {**PRIOR, "hypergradient": "unrolled", "unroll_steps": 2},
    "implicit": {**PRIOR, "hypergradient": "implicit", "coupling": "separate"},
    "reference": {**PRIOR, "hypergradient": "reference", "loss": "hard-bce", "student_weight": 0.0},
    "off": {**PRIOR, "hypergradient": "off", "modulation": "cascade", "vfm_cache": "full-image"},
    "registered": {"method": "two-views"},
    "astray": {"method": "astray"},
}


class Speck(Backbone):
    """Small, and with every kind of batch normalisation that there is."""

    feature_info: ClassVar = [FeatureInfo(6, 1, "stages.0"), FeatureInfo(8, 2, "stages.1")]

    def __init__(self, in_chans: int = 3, *, prior: float | None = None, **kwargs: Any) -> None:
        super().__init__(in_chans, **kwargs)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inside, out, 3, stride, 1), nn.BatchNorm2d(out), nn.Softplus())
            for inside, out, stride in ((in_chans, 6, 1), (6, 8, 2))
        )
        self.pooled = nn.Sequential(nn.Conv2d(8, 8, 1), PooledNorm(8))
        self.lateral = nn.Sequential(nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6, affine=False, momentum=None))
        self.head = nn.Sequential(nn.Conv2d(6, 1, 1))
        if prior is not None:
            self.set_prior(prior)

    def encode(self, x: Tensor, modulate: Any) -> list[Tensor]:
        maps = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if modulate is not None:
                x = modulate(number, x)
            maps.append(x)
        return maps

    def decode(self, features: Any) -> Tensor:
        fine, coarse = features
        coarse = coarse + self.pooled(coarse.mean((2, 3), keepdim=True))
        return self.head(F.softplus(fine + F.interpolate(self.lateral(coarse), scale_factor=2.0)))


def speck(in_chans: int = 3, **kwargs: Any) -> Speck:
    return Speck(in_chans, **kwargs)


class TwoViews(PlainMethod):
    """A method of somebody else: a loss, and nothing about processes."""

    supervision = "points"

    def loss(self, batch: Any) -> Tensor:
        plain, mirrored = (final_logits(self.model(image)) for image in (batch.image, batch.image.flip(-1)))
        return (hard_bce_loss(plain, batch.label) + bce_loss(mirrored, batch.label.flip(-1))).mean()


class Astray(Method):
    """A method whose processes take different steps."""

    supervision = "masks"

    def train_step(self, batch: Any) -> Tensor:
        loss = bce_loss(final_logits(self.model(batch.image)), batch.label).mean()
        for parameter, grad in zip(
            self.model.parameters(), torch.autograd.grad(loss, list(self.model.parameters())), strict=True
        ):
            parameter.data -= 0.1 * grad
        return loss.detach()

    def set_lr(self, lr: float) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return dict(self.model.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state)


@contextmanager
def registered() -> Iterator[None]:
    """Inside the block the network and the methods above are known by name, as those of somebody else.

    What the block registers is forgotten with them.
    """
    before = [(registry, dict(registry)) for registry in (_METHODS, METHOD_PRESETS, _ENTRYPOINTS)]
    register_model(speck)
    register_method("two-views", loss="bce")(TwoViews)
    register_method("astray", loss="bce")(Astray)
    try:
        yield
    finally:
        for registry, known in before:
            registry.clear()
            registry.update(known)


def make_no_pictures() -> None:
    for drawn in ("plot_curves", "plot_overlays", "plot_gallery"):
        setattr(results, drawn, lambda *arguments, **options: None)


def make_data(path: Path) -> None:
    pack(SyntheticDataset(num_train=9, num_val=3, num_test=3, size=(36, 40), seed=3), path)


def config(name: str, data: Path) -> TrainConfig:
    return TrainConfig(data=str(data), **{**SMALL, **RUNS[name]})


def train(name: str, data: Path, out: Path) -> None:
    """One of `RUNS`, without its pictures."""
    Trainer(config(name, data), out / name).fit()


def stop_and_resume(name: str, data: Path, out: Path) -> None:
    """The same run, which the last process alone is asked to stop after three steps."""
    trainer = Trainer(config(name, data), out)
    asked = itertools.count()

    def advance(bars: Bars, description: str) -> None:
        if next(asked) == 2 and is_last():
            trainer.stop.requested = True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bars, "advance", advance)
        with pytest.raises(KeyboardInterrupt):
            trainer.fit()
    position = load_state(RunFolder(out).checkpoint, kind="run")["position"]
    assert (position["epoch"], position["step"]) == (1, 1)
    Trainer(None, out, resume=True).fit()


def go_astray(data: Path, out: Path) -> None:
    """Whose processes do not do the same is told."""
    with pytest.raises(ProcessError, match="different weights"):
        train("astray", data, out)


def is_last() -> bool:
    rank, size = launched()
    return rank == size - 1


def bright(image: Tensor, level: float) -> Tensor:
    return 40 * (image / image.amax() - level)


def grow_labels(data: Path, out: Path, ranks: Ranks = ALONE) -> None:
    """First labels, evolution and mining by a network that answers where an image is bright."""
    chosen = TrainConfig(data=str(data), method="pal", label_init="canny", epochs=10)
    corpus = load_corpus(chosen, CPU, ranks=ranks)
    state = start_labels(out / "labels.h5", corpus, chosen, CPU, ranks=ranks)
    state.pool[1::2] = False
    for epoch, level in ((4, 0.97), (5, 0.9), (6, 0.8)):
        answer = partial(bright, level=level)
        update_labels(state, corpus, chosen, epoch, answer, ranks=ranks)
    quality = label_quality(state.train, corpus.train, state.evolving_indices, ranks)
    (out / f"quality-{ranks.rank}.json").write_text(json.dumps([quality, state.store.latest]))


def wait_for_work() -> None:
    """Work of one process may take longer than the others wait for an answer."""
    with open_ranks(CPU, 6) as ranks:
        assert ranks.from_first(lambda: time.sleep(9) or ranks.rank) == 0
        with ranks.in_turns(range(5)) as own:
            time.sleep(9 * is_last())
        assert ranks.joined(own) == list(range(5))


def bad_image(*arguments: Any) -> Any:
    raise DataError("the image is damaged", where="images/007.png")


def tell_of_failures(data: Path, out: Path) -> None:
    """What one process fails of is told by the others, and the group of the program stays."""
    expected = DataError if is_last() else ProcessError

    def ask(ranks: Ranks) -> None:
        if is_last():
            bad_image()
        ranks.sum(1)

    with pytest.MonkeyPatch.context() as patch:
        if is_last():
            patch.setattr(label_state, "evolve", bad_image)
        for act in (partial(grow_labels, data, out), ask):
            with (
                pytest.raises(expected, match="the image is damaged") as caught,
                open_ranks(CPU, 60) as ranks,
            ):
                act(ranks)
            assert is_last() or "process 1 of this run has ended" in str(caught.value)
            assert dist.is_initialized()


def fail_in_one(data: Path, out: Path) -> None:
    """A run whose last process meets a bad image in its part of a batch, in the second epoch."""
    read, asked = Stream.batch, itertools.count()

    def batch(stream: Stream, step: int) -> TrainBatch:
        return bad_image() if next(asked) == 3 and is_last() else read(stream, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stream, "batch", batch)
        try:
            train("lesps", data, out)
        except IstdError as error:
            sys.exit(f"{error}\nthe group is {'still there' if dist.is_initialized() else 'gone'}")


def train_all(data: Path, out: Path) -> None:
    """Every run, and what the processes of a program can do besides."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))  # a program may have done so before
    for each in RUNS:
        if each != "astray":
            train(each, data, out)
    stop_and_resume("registered", data, out / "stopped")
    with open_ranks(CPU, 60) as ranks:
        grow_labels(data, out, ranks)
    wait_for_work()
    (out / "bad").mkdir(exist_ok=True)
    tell_of_failures(data, out / "bad")
    go_astray(data, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_no_pictures()
    with registered():
        (fail_in_one if len(sys.argv) > 3 else train_all)(*map(Path, sys.argv[1:3]))
