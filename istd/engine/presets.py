"""What each method does unless told otherwise; its own file says how it differs from the schedule here."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError

_COMMON: dict[str, Any] = {
    "epochs": 300,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 1e-2,
    "lr_schedule": "constant",
    "loss": "bce-iou",
    "augment_warp": True,
    "ema": 0.0,
    "label_init": "levels",
    "label_decay": 0.97,
    "label_meet": "core",
    "evolve_start": 0.2,
    "evolve_loss": 0.0,
}
"""The reference schedule of arXiv 2605.14346: labels evolve after 20 % of the epochs, as in PAL."""

METHOD_PRESETS: dict[str, dict[str, Any]] = {}
"""Method → its settings; filled by `methods.register_method`."""

EVOLVE_EVERY = 5
"""Epochs between label evolutions, and between visits of the outer problem, in a run of published length."""

DEEP_SUPERVISION: dict[str, str] = {"dnanet": "sum", "sctransnet": "sum"}
"""How the losses of several heads are joined, by backbone, as in PAL's code; "mean" for all others."""


def add_preset(method: str, differences: dict[str, Any]) -> None:
    """Make the settings of a method known: the reference schedule with `differences`.

    Raises:
        ConfigError: the name is taken, or a difference is in a setting that is the same for all methods.
    """
    if method in METHOD_PRESETS:
        raise ConfigError("a training method of this name is registered already", found=method)
    unknown = sorted(set(differences) - set(_COMMON))
    if unknown:
        raise ConfigError(
            f"the method {method!r} has a preset of other settings",
            found=", ".join(unknown),
            expected="some of " + ", ".join(_COMMON),
        )
    METHOD_PRESETS[method] = {**_COMMON, **differences}


def method_preset(method: str, hypergradient: str) -> dict[str, Any]:
    """The settings that depend on the method, and the outer learning rate, which follows the hypergradient.

    The compatibility mode takes the outer steps of the public code, which also move the student: at its rate.
    """
    return {**METHOD_PRESETS[method], "outer_lr": 1e-3 if hypergradient == "reference" else 1e-2}


def scaled_interval(method: str, epochs: int) -> int:
    """`EVOLVE_EVERY` epochs as published, fewer in shorter runs, at least 1."""
    return max(1, round(EVOLVE_EVERY * epochs / METHOD_PRESETS[method]["epochs"]))
