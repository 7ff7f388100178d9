"""`istd train`: train a detector into a run folder."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from . import options as opt
from .resuming import resume as resume_run
from .tables import results_table, show_files

DEFAULT_VFM = "vit_small_plus_patch16_dinov3.lvd1689m"


def train(
    context: typer.Context,
    data: opt.Data = "",
    method: opt.MethodOption = "semantic-prior",
    backbone: opt.Backbone = "mlclnet",
    vfm: opt.Vfm = DEFAULT_VFM,
    hypergradient: opt.Hypergradient = "gauss-newton",
    epochs: opt.MethodEpochs = None,
    crop: opt.Crop = 256,
    batch_size: opt.BatchSize = 16,
    seed: opt.Seed = 0,
    out: opt.Out = Path("runs/train"),
    resume: opt.Resume = False,
    device: opt.Device = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting, such as --set lr=5e-4 --set label_init=canny --set coupling=separate; "
            "as often as needed. `--set help` lists all, with the defaults of --method.",
            rich_help_panel="More",
        ),
    ] = None,
) -> None:
    """Train a detector, from one point per target or from masks, and evaluate it on the test split.

    Everything goes into the folder --out: configuration, log, checkpoints, labels, results and pictures.
    Ctrl-C saves and stops; the same command with --resume goes on, with the same result as if it had never
    been stopped.
    """
    from .._paths import given_path
    from ..engine import TrainConfig, Trainer, tune_allocator
    from ..errors import ConfigError

    console = Console()
    if settings and "help" in settings:
        shown: dict[str, Any] = {"method": method, "backbone": backbone, "hypergradient": hypergradient}
        _list_settings(console, TrainConfig(data="", **shown))
        return
    given = {
        "data": str(given_path(data).resolve()) if data else "",
        "method": method,
        "backbone": backbone,
        "vfm": vfm,
        "hypergradient": hypergradient,
        "crop": crop,
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
        **({} if epochs is None else {"epochs": epochs}),
    }
    more = _parse_settings(settings or [], TrainConfig)
    tuned = tune_allocator()
    if resume:
        trainer = resume_run(context, out, console, given, more)
    else:
        if not data:
            raise ConfigError("--data is missing", expected="the folder of a dataset, or a packed .h5 file")
        trainer = Trainer(TrainConfig(**{**given, **more}), out, console=console)
    console = trainer.console  # of several processes the first one talks
    console.print(f"training in {escape(str(out))}" + (" [dim](allocator tuned)[/dim]" if tuned else ""))
    results = trainer.fit()
    console.print(results_table(results))
    show_files(console, trainer.folder)


def _parse_settings(settings: list[str], config: Any) -> dict[str, Any]:
    from ..engine.config import parse_setting
    from ..errors import ConfigError

    fields = {item.name for item in dataclasses.fields(config)}
    values: dict[str, Any] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not separator or name not in fields:
            raise ConfigError(
                "--set does not know this", found=setting, expected="NAME=VALUE; see --set help"
            )
        values[name] = parse_setting(name, text)
    return values


def _list_settings(console: Console, config: Any) -> None:
    """Every setting with its meaning, and the value it has in `config`: the preset of its method."""
    from ..engine.config import setting_choices

    meanings = _meanings(inspect.cleandoc(config.__doc__))
    for item in dataclasses.fields(config):
        value = "required" if item.default is dataclasses.MISSING else getattr(config, item.name)
        choices = " | ".join(map(str, setting_choices(item.name))) or str(item.type)
        console.print(f"[bold]{item.name}[/bold] = {value}  [dim]{escape(choices)}[/dim]")
        if item.name in meanings:
            console.print(Padding(escape(meanings[item.name]), (0, 0, 0, 4)), highlight=False)


def _meanings(docstring: str) -> dict[str, str]:
    """What a docstring says of fields, in lines `name, name: text` that are indented once, then twice."""
    found = {}
    for names, text in re.findall(r"^ {4}(\w+(?:, \w+)*): (.+(?:\n {8}.+)*)", docstring, re.MULTILINE):
        found.update(dict.fromkeys(names.split(", "), " ".join(text.split()).replace("`", "")))
    return found
