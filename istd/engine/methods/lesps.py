"""LESPS: label evolution from single points.

Ying et al., "Mapping Degeneration Meets Label Evolution: Learning Infrared Small Target Detection with Single
Point Supervision", CVPR 2023 (arXiv 2304.01484).

The facts beside the paper's equations (bound on the loss, optimiser, schedule) are those of the public code,
github.com/XinyiYing/LESPS; they stand in its preset.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from .base import PlainMethod
from .registry import register_method


# Single points as first labels, Adam, and evolution from the first epoch whose loss is low enough.
@register_method(
    "lesps",
    epochs=400,
    optimizer="adam",
    lr=5e-4,
    weight_decay=0.0,
    lr_schedule="step",
    loss="focal",
    augment_warp=False,
    label_init="points",
    label_decay=1.0,
    label_meet="label",
    evolve_start=0.0,
    evolve_loss=10.0,
)
class Lesps(PlainMethod):
    """The plain backbone with focal loss on labels that start as single pixels and grow with its answers.

    All images train from the start, nothing is mined. The loop evolves the labels from the first epoch after
    one whose mean loss was below `evolve_loss`, then every `evolve_interval` epochs: inside the kept regions
    (label + prediction)/2, outside unchanged (no decay), the annotated pixels at 1.
    """

    supervision: ClassVar[Literal["masks", "points"]] = "points"
