"""Ablations: which setting of `semantic-prior` is varied, and through which values."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from istd.engine import TrainConfig
from istd.engine.config import parse_setting, setting_choices
from istd.errors import ConfigError
from istd.models import DEFAULT_VFM


@dataclass(frozen=True)
class Axis:
    """One ablation.

    Attributes:
        question: what it asks.
        setting: the field of `TrainConfig` that is varied.
        values: value as shown → value; empty for all that the field may take.
    """

    question: str
    setting: str
    values: dict[str, Any]

    def variants(self) -> dict[str, dict[str, Any]]:
        """Value as shown → the settings that it changes."""
        values = self.values or {str(value): value for value in setting_choices(self.setting)}
        found = {}
        for shown, value in values.items():
            needed = _needed(self.setting, value)
            words = (shown, *(f"{setting} {needs}" for setting, needs in needed.items()))
            found[", ".join(words)] = {self.setting: value, **needed}
        return found


def _needed(setting: str, value: object) -> dict[str, Any]:
    """Other settings without which one cannot have this value."""
    return {"trusted_masks": 10} if (setting, value) == ("label_init", "learned") else {}


def asked(changes: dict[str, Any]) -> dict[str, Any]:
    """Of the settings that a variant changes the one that it is asked for by."""
    needed = {name for item in changes.items() for name in _needed(*item)}
    return {name: value for name, value in changes.items() if name not in needed}


AXES: dict[str, Axis] = {
    "hypergradient": Axis("how cluster weights are learned", "hypergradient", {}),
    "vfm": Axis(
        "what the teacher's frozen model knows",
        "vfm",
        {"real": DEFAULT_VFM, "random": "random", "none": "none"},
    ),
    "coupling": Axis("one CNN for teacher and student, or two", "coupling", {}),
    "modulation": Axis("where the teacher's stage maps are modulated", "modulation", {}),
    "lock": Axis("which label pixels may never fall", "lock", {}),
    "clusters": Axis("how many cluster weights", "clusters", {"2": 2, "8": 8, "32": 32, "auto": None}),
    "evolution": Axis("whether labels evolve", "evolve_start", {"off": 1.0, "after 20 %": 0.2}),
    "init": Axis("where labels start", "label_init", {}),
    "trusted": Axis("how many trusted masks", "trusted_masks", {"0": 0, "5": 5, "10": 10}),
}


def find_axis(text: str) -> tuple[str, Axis]:
    """The name and the axis that `--ablations` means.

    Args:
        text: a name from `AXES`, a setting that has choices, or `SETTING=VALUE,VALUE,…`.

    Raises:
        ConfigError: there is no such setting, or it is open and no values were given.
    """
    name, separator, values = text.partition("=")
    setting = AXES[name].setting if name in AXES else name.replace("-", "_")
    if setting not in {item.name for item in fields(TrainConfig)}:
        raise ConfigError(
            "--ablations does not know this",
            found=text,
            expected=" | ".join(AXES) + ", or SETTING=VALUE,VALUE",
        )
    if separator:
        chosen = {value: parse_setting(setting, value) for value in values.split(",")}
        return name, Axis(AXES[name].question if name in AXES else setting, setting, chosen)
    if name in AXES:
        return name, AXES[name]
    if not setting_choices(setting):
        raise ConfigError(
            "--ablations needs values for this setting", found=text, expected=f"{setting}=VALUE,VALUE"
        )
    return name, Axis(setting, setting, {})
