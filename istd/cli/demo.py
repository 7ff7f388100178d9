"""`istd demo`: from points to a trained detector in minutes, with nothing but this package."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape

from . import options as opt
from .resuming import resume as resume_run
from .tables import results_table, show_files

if TYPE_CHECKING:
    from ..engine import RunFolder, TrainConfig, Trainer


def demo(
    context: typer.Context,
    method: opt.MethodOption = "semantic-prior",
    backbone: opt.Backbone = "mlclnet",
    vfm: opt.Vfm = "random",
    hypergradient: opt.Hypergradient = "gauss-newton",
    epochs: opt.Epochs = 12,
    crop: opt.Crop = 48,
    batch_size: opt.BatchSize = 8,
    seed: opt.Seed = 0,
    out: opt.Out = Path("runs/demo"),
    resume: opt.Resume = False,
    device: opt.Device = "auto",
) -> None:
    """Generate infrared images, train on one point per target, and show what the detector finds.

    Needs no data and no network. The teacher's frozen model is a small ViT with random weights unless --vfm
    names a real one. A demo folder that is there already is replaced.
    """
    from ..data import SyntheticDataset, pack
    from ..engine import RunFolder, TrainConfig, Trainer, tune_allocator

    console = Console()
    tune_allocator()
    data = out / "synthetic.h5"
    options: dict[str, Any] = {
        "method": method,
        "backbone": backbone,
        "vfm": vfm,
        "hypergradient": hypergradient,
        "epochs": epochs,
        "crop": crop,
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
    }
    if resume:
        trainer = resume_run(context, out, console, options)
        trainer.command = _command(trainer.config)
        _finish(trainer, console)
        return
    config = TrainConfig(
        data=str(data.resolve()),
        lr=2e-3,
        lr_schedule="cosine",
        target_fraction=0.7,
        evolve_every=3,
        **options,
    )
    _clear_old_demo(RunFolder(out), config.data)
    console.print("[bold]1[/bold] generating infrared images with one point per target")
    pack(SyntheticDataset(num_train=96, num_val=16, num_test=32, size=(96, 96), seed=seed), data)
    console.print(f"[bold]2[/bold] training {method}" + _LESSONS.get(method, ""))
    _finish(Trainer(config, out, console=console, command=_command(config)), console)


_LESSONS = {
    "semantic-prior": ": labels start from the points and follow the teacher as it learns",
    "pal": ": labels start from the points and follow the detector as it learns",
    "lesps": ": labels start from single pixels and follow the detector as it learns",
    "full": " on the true masks",
}


def _command(config: TrainConfig) -> str:
    """The demo that makes a run of this configuration, its images included."""
    from .._provenance import with_threads

    words = ["istd", "demo"]
    for name in ("method", "backbone", "vfm", "hypergradient", "epochs", "crop", "batch_size", "seed"):
        words += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    return with_threads([*words, "--device", config.device])


def _clear_old_demo(folder: RunFolder, data: str) -> None:
    """Remove what an earlier demo wrote here, and nothing else; anything that is not a demo is refused."""
    from ..errors import CheckpointError

    if not folder.config.exists():
        return
    folder.acquire()
    try:
        if folder.read_config().data != data:
            raise CheckpointError(
                "this folder holds a run that is not a demo", where=folder.root, fix="choose another --out"
            )
        folder.clear()
    finally:
        folder.release()


def _finish(trainer: Trainer, console: Console) -> None:
    results = trainer.fit()
    console.print("[bold]3[/bold] against the masks that training never saw")
    console.print(results_table(results))
    show_files(console, trainer.folder)
    words = shlex.join(["istd", "predict", str(trainer.folder.root), "FOLDER"])
    console.print(f"\nnow detect in your own images: {escape(words)}", soft_wrap=True)
