"""What is typed, and what it means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from istd.engine import TrainConfig
from istd.engine.config import parse_setting
from istd.errors import ConfigError

from .presets import ROWS

_MANY = ("--methods", "--backbones", "--seeds", "--ablations", "--set", "--only")
"""Options that take several values, one after the other."""


def spread_values(arguments: Sequence[str]) -> list[str]:
    """`--seeds 0 1 2` as `--seeds 0 --seeds 1 --seeds 2`, which typer understands.

    An option with no value at all stands for the word "none": `--ablations` alone asks for no ablation.
    """
    found: list[str] = []
    option, count = "", 0
    for argument in [*arguments, "--"]:
        if argument.startswith("--"):
            if option and not count:
                found += [option, "none"]
            option, count = (argument, 0) if argument in _MANY else ("", 0)
            found += [] if option else [argument]
        elif option:
            found += [option, argument]
            count += 1
        else:
            found.append(argument)
    return found[:-1]


def chosen(values: Sequence[str] | None, default: Sequence[str], allowed: Sequence[str] = ()) -> list[str]:
    """The values that were typed, or the default ones; "none" stands for no value.

    Raises:
        ConfigError: a value is not allowed.
    """
    if not values:
        return list(default)
    found = [value for value in dict.fromkeys(values) if value != "none"]
    wrong = [value for value in found if allowed and value not in allowed]
    if wrong:
        raise ConfigError("unknown value", found=", ".join(wrong), expected=" | ".join(allowed))
    return found


def parse_settings(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`NAME=VALUE` for every cell, `ROW.NAME=VALUE` for one row: "" or row → name → value.

    Raises:
        ConfigError: there is no such setting or row.
    """
    known = {item.name for item in fields(TrainConfig)} - {"data", "method", "backbone", "seed"}
    rows = {*ROWS, "small-unet"}
    found: dict[str, dict[str, Any]] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        row, dot, rest = name.rpartition(".")
        field = rest.strip().replace("-", "_")
        if not separator or field not in known or (dot and row not in rows):
            raise ConfigError(
                "--set does not know this",
                found=setting,
                expected="NAME=VALUE or ROW.NAME=VALUE; names: `istd train --set help`; rows: "
                + " | ".join(sorted(rows)),
            )
        found.setdefault(row, {})[field] = parse_setting(field, text)
    return found
