"""What each method does unless told otherwise; its own file says how it differs from the schedule here."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class MethodPreset:
    """What a configuration knows of a method, without its class (which needs configurations).

    Attributes:
        settings: its values of the settings that a method decides.
        supervision, uses_clusters: those of the class, see `methods.Method`.
    """

    settings: dict[str, Any]
    supervision: str
    uses_clusters: bool


SUPERVISIONS = ("masks", "points")
"""What a method learns from."""

METHOD_PRESETS: dict[str, MethodPreset] = {}
"""Method → what a configuration knows of it; filled by `methods.register_method`."""

EVOLVE_EVERY = 5
"""Epochs between label evolutions, and between visits of the outer problem, in a run of published length."""

DEEP_SUPERVISION: dict[str, str] = {"dnanet": "sum", "sctransnet": "sum"}
"""How the losses of several heads are joined, by backbone, as in PAL's code; "mean" for all others."""


def add_preset(
    method: str, differences: dict[str, Any], *, supervision: str | None, uses_clusters: bool
) -> None:
    """Make a method known to configurations: the reference schedule with `differences`.

    Raises:
        ConfigError: the name is taken, a difference is in a setting that is the same for all methods, or the
            supervision is none.
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
    if supervision not in SUPERVISIONS:
        raise ConfigError(
            f"the method {method!r} does not say what it learns from",
            found=f"supervision {supervision!r}",
            expected=" | ".join(map(repr, SUPERVISIONS)),
            fix="set the attribute `supervision` in its class",
        )
    METHOD_PRESETS[method] = MethodPreset({**_COMMON, **differences}, supervision, uses_clusters)


def method_preset(method: str, hypergradient: str) -> dict[str, Any]:
    """The settings that depend on the method, and the outer learning rate, which follows the hypergradient.

    The compatibility mode takes the outer steps of the public code, which also move the student: at its rate.
    """
    return {**METHOD_PRESETS[method].settings, "outer_lr": 1e-3 if hypergradient == "reference" else 1e-2}


def scaled_interval(method: str, epochs: int) -> int:
    """`EVOLVE_EVERY` epochs as published, fewer in shorter runs, at least 1."""
    return max(1, round(EVOLVE_EVERY * epochs / METHOD_PRESETS[method].settings["epochs"]))
