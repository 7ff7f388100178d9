"""Which of the field's many conventions a figure was measured in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from .._regions import check_connectivity
from ..errors import ConfigError

Matching = Literal["first", "nearest", "hungarian", "overlap"]
EmptyRule = Literal["zero", "one", "skip"]
FalseArea = Literal["unmatched", "by_value"]
_CHOICES: dict[str, tuple[str, ...]] = {
    "matching": ("first", "nearest", "hungarian", "overlap"),
    "empty_niou": ("zero", "one", "skip"),
    "false_area": ("unmatched", "by_value"),
}


@dataclass(frozen=True)
class MetricConvention:
    """How predictions become targets, how targets are matched, and what empty images count.

    The defaults are PAL's and the reference's, at the image's native size. Public repositories disagree
    enough to reorder rankings, so results carry the convention they used (`to_dict`).

    Attributes:
        threshold: a pixel is predicted where its probability is strictly above.
        connectivity: 8 or 4, of predicted and true targets.
        distance: a match needs centroids strictly closer than this, in pixels. Not used by "overlap".
        matching: always one to one, going through the true targets in raster order of their first pixel.
            "first" takes the first free predicted region (in raster order) that is close enough; "nearest"
            the closest; "hungarian" the assignment with most matches and, among those, the least total
            distance; "overlap" the free predicted region that shares most pixels, at least one.
        empty_niou: what an image where truth and prediction are both empty counts in nIoU: 0, 1, or nothing.
        false_area: "unmatched" sums the area of predicted regions without a match. "by_value" drops every
            region whose area equals that of a matched one in its image, as the DNANet family does; false
            alarms then vanish by coincidence.
    """

    threshold: float = 0.5
    connectivity: int = 8
    distance: float = 3.0
    matching: Matching = "first"
    empty_niou: EmptyRule = "zero"
    false_area: FalseArea = "unmatched"

    def __post_init__(self) -> None:
        check_connectivity(self.connectivity)
        for name in ("threshold", "distance"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), int | float):
                raise ConfigError(f"{name} of the metric convention is no number", found=getattr(self, name))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"unknown {name} in the metric convention",
                    found=getattr(self, name),
                    expected=", ".join(choices),
                )
        far = self.distance > 1e12 and self.distance != math.inf  # more than arrays can be compared with
        if not 0.0 <= self.threshold < 1.0 or not self.distance > 0.0 or far:
            raise ConfigError(
                "the metric convention is out of range",
                found=f"threshold {self.threshold}, distance {self.distance}",
                expected="0 ≤ threshold < 1, distance > 0",
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain values for a results file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MetricConvention:
        """The convention that `to_dict` described.

        Raises:
            ConfigError: an unknown field or value.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(
                "this is no metric convention", found=type(values).__name__, expected="a mapping"
            )
        unknown = sorted(map(str, set(values) - {field.name for field in fields(cls)}))
        if unknown:
            raise ConfigError("unknown fields in the metric convention", found=", ".join(unknown))
        return cls(**values)


DNANET = MetricConvention(false_area="by_value")
"""Figures comparable with the DNANet family (at the size its images are evaluated in)."""

CONVENTIONS: dict[str, MetricConvention] = {
    "default": MetricConvention(),
    "dnanet": DNANET,
    "nearest": MetricConvention(matching="nearest"),
    "hungarian": MetricConvention(matching="hungarian"),
    "overlap": MetricConvention(matching="overlap"),
}
"""Conventions with a name, for the command line and for tables that show them side by side."""


def named_convention(name: str, **changes: Any) -> MetricConvention:
    """The convention of that name, with some fields changed.

    Args:
        name: a key of `CONVENTIONS`.
        **changes: fields of `MetricConvention`; None leaves a field as it is.

    Raises:
        ConfigError: an unknown name, field or value.
    """
    if name not in CONVENTIONS:
        raise ConfigError("--convention is unknown", found=name, expected=" | ".join(CONVENTIONS))
    given = {key: value for key, value in changes.items() if value is not None}
    return MetricConvention.from_dict({**CONVENTIONS[name].to_dict(), **given})
