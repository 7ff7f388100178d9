"""How a teacher's knowledge meets a stage map: f̃ = f + s · ((γ − 1) ⊙ f + β), and the s of each backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import ModelError

MODULATION_SCALES: dict[str, float] = {
    # As in the public code of arXiv 2605.14346, which releases these two alone.
    "alclnet": 0.12,
    "mlclnet": 0.55,
    # For the others nothing is published. In both released networks s times the number of modulated channels
    # is about 60 (0.12 · 496, 0.55 · 112); the same here, so that no teacher is modulated more than theirs.
    # A neutral start, not a tuned value: give your own with `scale`.
    "dnanet": 0.12,
    "gglnet": 0.12,
    "mshnet": 0.12,
    "repisdnet": 0.38,
    "sctransnet": 0.08,
}
"""The scale s by backbone name; the one place where it is set."""


def modulation_scale(backbone: str) -> float:
    """The default scale s for a backbone.

    Raises:
        ModelError: if none is known, rather than guessing: too large a scale lets the teacher drown the CNN.
    """
    if backbone not in MODULATION_SCALES:
        raise ModelError(
            f"no modulation scale is known for the backbone {backbone!r}",
            expected=f"one of {', '.join(sorted(MODULATION_SCALES))}",
            fix="give the scale yourself, for example scale=0.3",
        )
    return MODULATION_SCALES[backbone]


@dataclass(frozen=True)
class Modulation:
    """Per-image, per-stage, per-channel γ and β; calling it modulates one stage map.

    Attributes:
        gammas: stage i's γ, [B, Cᵢ, 1, 1], around 1.
        betas: stage i's β, [B, Cᵢ, 1, 1], around 0.
        scale: s.
    """

    gammas: tuple[Tensor, ...]
    betas: tuple[Tensor, ...]
    scale: float

    def __call__(self, stage: int, feature: Tensor) -> Tensor:
        """f + s · ((γ − 1) ⊙ f + β) for the map f [B, Cᵢ, H, W] of stage i, in f's dtype.

        The signature is `Backbone.forward_features`'s `modulate`.
        """
        gain = 1.0 + self.scale * (self.gammas[stage] - 1.0)
        shift = self.scale * self.betas[stage]
        return feature * gain.to(feature.dtype) + shift.to(feature.dtype)

    def apply(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Modulate finished stage maps (the reference's way)."""
        return [self(stage, feature) for stage, feature in enumerate(features)]
