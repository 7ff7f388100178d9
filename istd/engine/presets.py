"""What each method does unless told otherwise: the schedule of its paper, in one table."""

from __future__ import annotations

from typing import Any

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

METHOD_PRESETS: dict[str, dict[str, Any]] = {
    # Full supervision under the same schedule, so that the two can be compared.
    "full": _COMMON,
    # Ying et al., CVPR 2023: single points as first labels, Adam, and evolution from the first epoch whose
    # loss is low enough. The figures are those of its public code.
    "lesps": {
        "epochs": 400,
        "optimizer": "adam",
        "lr": 5e-4,
        "weight_decay": 0.0,
        "lr_schedule": "step",
        "loss": "focal",
        "augment_warp": False,
        "ema": 0.0,
        "label_init": "points",
        "label_decay": 1.0,
        "label_meet": "label",
        "evolve_start": 0.0,
        "evolve_loss": 10.0,
    },
    # Yu et al., ICCV 2025: the figures of its public code but for the start of its labels, which is ours;
    # `label_init=canny` is the published one.
    "pal": {**_COMMON, "epochs": 400, "loss": "hard-bce"},
    "semantic-prior": _COMMON,
}

EVOLVE_EVERY = 5
"""Epochs between label evolutions, and between visits of the outer problem, in a run of published length."""

DEEP_SUPERVISION: dict[str, str] = {"dnanet": "sum", "sctransnet": "sum"}
"""How the losses of several heads are joined, by backbone, as in PAL's code; "mean" for all others."""


def method_preset(method: str, hypergradient: str) -> dict[str, Any]:
    """The settings that depend on the method, and the outer learning rate, which follows the hypergradient.

    The compatibility mode takes the outer steps of the public code, which also move the student: at its rate.
    """
    return {**METHOD_PRESETS[method], "outer_lr": 1e-3 if hypergradient == "reference" else 1e-2}


def scaled_interval(method: str, epochs: int) -> int:
    """`EVOLVE_EVERY` epochs as published, fewer in shorter runs, at least 1."""
    return max(1, round(EVOLVE_EVERY * epochs / METHOD_PRESETS[method]["epochs"]))
