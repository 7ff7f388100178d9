"""`--resume`: go on with a run, whose own configuration counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from ..engine import Trainer


def resume(
    context: typer.Context,
    out: Path,
    console: Console,
    options: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> Trainer:
    """The trainer of the run in `out`.

    What says where things lie and run may be given anew, for a run that has moved, and is kept.

    Args:
        context: of the command; tells which options were typed.
        out: the run folder.
        console: where the trainer prints.
        options: setting of the run → value of the option of that name.
        settings: the same for settings that were typed in another way.

    Raises:
        ConfigError: an option was typed that differs from the run's configuration and may not.
        CheckpointError: there is no run, or another process trains it.
    """
    from ..engine import Trainer
    from ..engine.process_group import launched
    from ..engine.run_state import MAY_CHANGE
    from ..errors import ConfigError

    trainer = Trainer(None, out, resume=True, console=console)
    typed = {name: value for name, value in options.items() if _is_typed(context, name)}
    typed |= settings or {}
    config = trainer.config
    different = {name: value for name, value in typed.items() if getattr(config, name) != value}
    fixed = [name for name in different if name not in MAY_CHANGE]
    if fixed:
        raise ConfigError(
            "a resumed run keeps its configuration",
            found=", ".join(f"{name}={different[name]}" for name in fixed),
            expected=", ".join(f"{name}={getattr(config, name)}" for name in fixed),
            fix="leave these options away, or start a new run in another --out",
        )
    if different:
        trainer.config = dataclasses.replace(config, **different)
        if launched()[0] == 0:  # of several processes the first one writes
            trainer.folder.keep_config(trainer.config)
    return trainer


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
