"""Checks of points, by themselves and against the masks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from ._facts import Facts
from .finding import Finding

_KINDS = (
    (
        "outside",
        "error",
        "point-outside",
        "a point lies outside the image",
        "points are (y, x) from 0; see whether y and x were exchanged",
    ),
    (
        "off",
        "warning",
        "point-off-target",
        "a point is more than one pixel away from every target of the mask",
        "correct the point or the mask",
    ),
    (
        "unmarked",
        "warning",
        "target-without-point",
        "a target of the mask has no point",
        "add the point: a target without one is learned as background",
    ),
    ("crowded", "warning", "several-points", "a target of the mask has more than one point", "keep one"),
)


def check_points(all_facts: Sequence[Facts], unannotated: Collection[str]) -> Iterator[Finding]:
    """Images and targets without points, points that cannot be read, that lie outside or off their target."""
    broken = [facts for facts in all_facts if facts.point_problem is not None]
    if broken:
        yield Finding(
            "error",
            "unusable-points",
            "the point image cannot be used",
            tuple(facts.name for facts in broken),
            tuple(str(facts.point_problem) for facts in broken),
        )
    unlabelled = [facts for facts in all_facts if facts.unlabelled]
    if unlabelled:
        yield Finding(
            "error",
            "unlabelled",
            "an image with neither points nor a mask cannot be used",
            tuple(facts.name for facts in unlabelled),
            mend="mark its targets (istd annotate), add its mask or point image (all black if there is no "
            "target), or take its name out of the split",
        )
    train = [facts for facts in all_facts if "train" in facts.splits and facts.problem is None]
    if train and not any(facts.points for facts in train):
        yield Finding(
            "error",
            "no-points",
            "no training image has a target: neither points nor masks with targets were found",
            mend="add points.csv (istd annotate, istd points) or masks/",
        )
    # Of an image with an empty mask it is known that there is no target.
    left = [
        facts
        for facts in all_facts
        if facts.name in unannotated and facts.problem is None and facts.targets != 0
    ]
    if left:
        yield Finding(
            "warning",
            "unannotated",
            f"{len(left)} images to learn from are not in the point file: they count as without a target",
            tuple(facts.name for facts in left),
            mend="go on with `istd annotate`; where there is no target, say so there (a row without y and x)",
        )
    for attribute, severity, check, message, mend in _KINDS:
        some = [(facts, getattr(facts, attribute)) for facts in all_facts if getattr(facts, attribute)]
        if some:
            yield Finding(
                severity,  # type: ignore[arg-type]
                check,
                message,
                tuple(facts.name for facts, _ in some),
                tuple("; ".join(f"y {y}, x {x}" for y, x in where[:4]) for _, where in some),
                mend,
            )
