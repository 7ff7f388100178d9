"""What each preset runs, in tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from istd.models import list_models

METHODS = ("full", "lesps", "pal", "static", "semantic-prior", "small-unet")
"""What `--methods` takes. "static" is the plain network on first labels that never evolve; "small-unet" is
the baseline to beat, on static labels and on masks."""

PAL_PUBLISHED = "pal, published start"
"""PAL with the labels that it starts from in its paper; "pal" has those that all other methods start from."""

ROWS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lesps": {"method": "lesps"},
    "pal": {"method": "pal"},
    PAL_PUBLISHED: {"method": "pal", "label_init": "canny"},
    "static": {"method": "pal", "loss": "bce-iou", "evolve_start": 1.0},
    "semantic-prior": {"method": "semantic-prior"},
    "small-unet, masks": {"method": "full", "loss": "bce-iou"},
    "small-unet, static contrast labels": {
        "method": "pal",
        "loss": "bce-iou",
        "label_init": "contrast",
        "evolve_start": 1.0,
    },
}
"""Row → what makes it that row; everything else is the preset's."""


@dataclass(frozen=True)
class Synthetic:
    """Generated images: how many for each split, their size, and the seed."""

    train: int
    val: int
    test: int
    size: tuple[int, int]
    seed: int = 0


@dataclass(frozen=True)
class Preset:
    """One way to call the benchmark.

    Attributes:
        about: one sentence.
        settings: of `TrainConfig`, for every cell.
        by_row: more of them for one row ("lesps"), or for both rows of "small-unet".
        backbones, seeds, ablations: what is run unless the command line says otherwise.
        ablation_seeds: how many of the seeds the ablations take.
        synthetic: the images; None where `--data` names them.
        probes: about how many hypergradients of a run are compared with exact ones: those of every n-th outer
            visit, n the whole number nearest to visits / probes (`probe.Probe`).
        probe_steps: inner steps of the exact ones.
    """

    about: str
    settings: dict[str, Any]
    by_row: dict[str, dict[str, Any]] = field(default_factory=dict)
    backbones: tuple[str, ...] = ("mlclnet",)
    seeds: tuple[int, ...] = (0, 1, 2)
    ablations: tuple[str, ...] = ("hypergradient",)
    ablation_seeds: int = 3
    synthetic: Synthetic | None = None
    probes: int = 12
    probe_steps: tuple[int, ...] = (1, 5)


SMOKE = Preset(
    about="generated images, tiny crops: minutes on two cores; shows that all works, its figures mean little",
    settings={
        "vfm": "random",
        "epochs": 6,
        "crop": 32,
        "batch_size": 8,
        "lr": 2e-3,
        "lr_schedule": "cosine",
        "target_fraction": 0.7,
        "evolve_every": 2,
        "outer_every": 2,
        "outer_steps": 1,
        "eval_every": 2,
    },
    seeds=(0, 1),
    ablation_seeds=1,
    synthetic=Synthetic(train=96, val=16, test=32, size=(64, 64)),
    probes=2,
    probe_steps=(1, 3),
)

SIRST = Preset(
    about="SIRST v1 at CPU size: crops around targets and distractors, 1024 steps a cell, the teacher's "
    "model with random weights",
    settings={
        "vfm": "random",
        "epochs": 64,
        "crop": 64,
        "batch_size": 16,
        "lr": 2e-3,
        "lr_schedule": "cosine",
        "ema": 0.98,
        "target_fraction": 0.5,
        "distractor_fraction": 0.4,
        "precision": "bfloat16",
        "evolve_every": 16,
        "outer_every": 8,
        "outer_steps": 2,
        "eval_every": 16,
    },
    by_row={
        "small-unet": {"epochs": 75, "eval_every": 15},
        # Labels that start from pixels or edges have to grow; each evolution costs as much as 150 steps.
        "lesps": {"evolve_every": 8},
        PAL_PUBLISHED: {"evolve_every": 8},
        # At this length the teacher agrees with the masks less than the first labels do: see "evolution".
        "semantic-prior": {"evolve_start": 1.0},
    },
    ablation_seeds=1,  # three would take five hours instead of three
    probes=6,  # of 8 visits: n is 1, and all 8 are looked at
)

PAPER = Preset(
    about="the published schedule, for a GPU: 256 crops, batches of 16, 300 or 400 epochs, all backbones",
    settings={"crop": 256, "batch_size": 16},
    by_row={"small-unet": {"epochs": 300}},
    backbones=tuple(list_models()),
)

PRESETS: dict[str, Preset] = {"smoke": SMOKE, "sirst": SIRST, "paper": PAPER}
