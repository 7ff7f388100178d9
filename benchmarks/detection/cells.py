"""Cells: what one process trains and measures, and the plan of all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from istd.engine import TrainConfig

from .axes import Axis
from .presets import ROWS, Preset
from .small_unet import NAME as SMALL_UNET

MAIN = "table"
"""The axis of the cells of the main table."""


@dataclass(frozen=True)
class Base:
    """What all cells of a call have in common; a cell's settings follow from it and its recipe.

    Attributes:
        preset: its name.
        data: the dataset.
        settings: of every cell.
        by_row: more for one row, or for both rows of "small-unet".
        given: settings from the command line: "" → those of every cell, row → more of that row. They
            overrule all but what makes a row that row.
    """

    preset: str
    data: str
    settings: dict[str, Any]
    by_row: dict[str, dict[str, Any]]
    given: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, name: str, preset: Preset, data: str, given: dict[str, dict[str, Any]] | None = None) -> Base:
        """The base of a preset on some data."""
        return cls(name, data, preset.settings, preset.by_row, given or {})


def completed(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a stored cell, with the settings that were added since at their defaults.

    A new setting leaves runs as they were unless it is used, so older cells still count.
    """
    now = TrainConfig(data=config["data"], method=config["method"], hypergradient=config["hypergradient"])
    later: dict[str, Any] = json.loads(json.dumps(now.to_dict()))
    return {**later, **config}


@dataclass(frozen=True)
class Recipe:
    """What a cell is, beside its base: backbone, row of the table, seed, and what differs from the row."""

    backbone: str
    row: str
    seed: int
    changes: dict[str, Any]

    def config(self, base: Base) -> dict[str, Any]:
        """All settings of the run, as JSON would give them back.

        Raises:
            ConfigError: a setting makes no sense.
        """
        group = self.row.partition(",")[0]
        values = {**base.settings}
        for more in (base.by_row, base.given):
            values |= {**more.get("", {}), **more.get(group, {}), **more.get(self.row, {})}
        values |= {**ROWS[self.row], **self.changes, "data": base.data, "seed": self.seed}
        # The registry of this process need not know the baseline's network.
        known = "mlclnet" if self.backbone == SMALL_UNET else self.backbone
        config = {**TrainConfig(**{**values, "backbone": known}).to_dict(), "backbone": self.backbone}
        found: dict[str, Any] = json.loads(json.dumps(config))
        return found

    @property
    def slug(self) -> str:
        """The name of its folder."""
        words = [self.backbone] if self.row.startswith("small-unet") else [self.backbone, self.row]
        words += [self.row.partition(",")[2]] if "," in self.row else []
        words += [f"{name}-{value}" for name, value in self.changes.items()]
        words.append(f"seed-{self.seed}")
        return "--".join(re.sub(r"[^a-z0-9.]+", "-", word.lower()).strip("-") for word in words)

    @property
    def label(self) -> str:
        """What a person calls it."""
        changes = "".join(f", {name}={value}" for name, value in self.changes.items())
        return f"{self.backbone} · {self.row}{changes} · seed {self.seed}"


@dataclass(frozen=True)
class Cell:
    """One run to make.

    Attributes:
        recipe: what it is.
        config: all settings of the run.
        places: (axis, value) for every table that it stands in.
        probe: how its hypergradients are compared with exact ones: {"count", "steps"}; None for not at all.
    """

    recipe: Recipe
    config: dict[str, Any]
    places: tuple[tuple[str, str], ...]
    probe: dict[str, Any] | None = None

    @property
    def slug(self) -> str:
        return self.recipe.slug

    @property
    def request(self) -> dict[str, Any]:
        """What decides the figures: a cell of another request is made again."""
        return {"config": self.config, "probe": self.probe}


def plan(
    base: Base,
    preset: Preset,
    *,
    methods: Sequence[str],
    backbones: Sequence[str],
    seeds: Sequence[int],
    axes: dict[str, Axis],
    ablation_seeds: int,
) -> list[Cell]:
    """All cells, each once, seed by seed: the main table first, then the ablations.

    Raises:
        ConfigError: a setting makes no sense.
    """
    found: dict[str, Cell] = {}

    def add(recipe: Recipe, place: tuple[str, str], probed: bool = False) -> None:
        config = recipe.config(base)
        key = json.dumps(config, sort_keys=True)
        cell = found.get(key) or Cell(recipe, config, ())
        probe = {"count": preset.probes, "steps": list(preset.probe_steps)} if probed else cell.probe
        found[key] = replace(cell, places=(*cell.places, place), probe=probe)

    for seed in seeds:
        for backbone in backbones:
            for row in (row for row in ROWS if row.partition(",")[0] in {*methods} - {"small-unet"}):
                add(Recipe(backbone, row, seed, {}), (MAIN, ""))
        for row in (row for row in ROWS if row.startswith("small-unet") and "small-unet" in methods):
            add(Recipe(SMALL_UNET, row, seed, {}), (MAIN, ""))
    for seed in seeds[:ablation_seeds]:
        for name, axis in axes.items():
            for shown, changes in axis.variants().items():
                probed = changes.get("hypergradient", "off") != "off"
                for backbone in backbones:
                    recipe = Recipe(backbone, "semantic-prior", seed, changes)
                    add(recipe, (name, shown), probed)
    return list(found.values())
