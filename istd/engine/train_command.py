"""The call of `istd train` that makes a run of a given configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

from .._paths import given_path
from .._provenance import with_threads
from .config import TrainConfig

_OPTIONS = ("method", "backbone", "vfm", "hypergradient", "epochs", "crop", "batch_size", "seed")


def train_command(config: TrainConfig, device: object = None, processes: int = 1) -> str:
    """A call for a POSIX shell; the folder to write to (`--out`) is left open.

    A run that was resumed, or begun from Python, is made again by it too: the same weights and labels, bit
    for bit, on the same machine.

    Args:
        config: of the run.
        device: where it ran; None leaves it to the configuration. Of several processes each has its own.
        processes: how many ran it together.
    """
    several = ["torchrun", "--nproc-per-node", str(processes), "-m"] if processes > 1 else []
    words = [*several, "istd", "train", "--data", str(given_path(config.data).resolve())]
    for name in _OPTIONS:
        words += [f"--{name.replace('_', '-')}", _typed(getattr(config, name))]
    words += ["--device", config.device if device is None or several else str(device)]
    plain = TrainConfig(data=config.data, **{name: getattr(config, name) for name in _OPTIONS[:4]})
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.name not in ("data", "device", *_OPTIONS) and value != getattr(plain, item.name):
            words += ["--set", f"{item.name}={_typed(value)}"]
    return with_threads(words)


def _typed(value: Any) -> str:
    """A setting as `parse_setting` reads it."""
    if isinstance(value, tuple):
        return ",".join(map(repr, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)
