"""`--resume`: go on with a run, whose own configuration counts."""

from __future__ import annotations

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

    Args:
        context: of the command; tells which options were typed.
        out: the run folder.
        console: where the trainer prints.
        options: setting of the run → value of the option of that name.
        settings: the same for settings that were typed in another way.

    Raises:
        ConfigError: an option was typed that differs from the run's configuration.
        CheckpointError: there is no run.
    """
    from ..engine import Trainer
    from ..errors import ConfigError

    trainer = Trainer(None, out, resume=True, console=console)
    typed = {name: value for name, value in options.items() if _is_typed(context, name)}
    typed |= settings or {}
    config = trainer.config
    different = {name: value for name, value in typed.items() if getattr(config, name) != value}
    if different:
        raise ConfigError(
            "a resumed run keeps its configuration",
            found=", ".join(f"{name}={value}" for name, value in different.items()),
            expected=", ".join(f"{name}={getattr(config, name)}" for name in different),
            fix="leave these options away, or start a new run in another --out",
        )
    return trainer


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
