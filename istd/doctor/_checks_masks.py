"""Checks of masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..data._fit import is_uniform_scale
from ._facts import Facts
from .finding import Finding

LARGE = 0.15
"""Part of an image above which a "small target" mask is taken for inverted, or for something else."""


def check_masks(all_facts: Sequence[Facts]) -> Iterator[Finding]:
    """Masks that are missing, unreadable, not binary, of another size, empty, or far too large."""
    for split, severity in (("train", "warning"), ("val", "warning"), ("test", "error")):
        lacking = [facts for facts in all_facts if facts.mask_missing and split in facts.splits]
        # Masks for the test split alone, beside points for training: that is how such sets are meant.
        if lacking and (
            split == "test" or any(f.targets is not None and split in f.splits for f in all_facts)
        ):
            yield Finding(
                severity,  # type: ignore[arg-type]
                "missing-mask",
                f"images of the {split} split without a mask",
                tuple(facts.name for facts in lacking),
                mend="add the masks, or take the names out of the split",
            )
    broken = [facts for facts in all_facts if facts.mask_problem is not None]
    if broken:
        yield Finding(
            "error",
            "unusable-mask",
            "the mask cannot be used",
            tuple(facts.name for facts in broken),
            tuple(str(facts.mask_problem) for facts in broken),
            "give a binary mask; for soft edges (anti-aliasing, JPEG), cut them: `istd pack FOLDER "
            "--mask-threshold 0.5`, then train on the packed file",
        )
    yield from _check_sizes(all_facts)
    large = [facts for facts in all_facts if (facts.mask_fraction or 0) > LARGE]
    if large:
        yield Finding(
            "error",
            "large-mask",
            f"more than {LARGE:.0%} of the image is target",
            tuple(facts.name for facts in large),
            tuple(f"{facts.mask_fraction:.0%}" for facts in large),
            "see whether the mask is inverted or belongs to another task",
        )
    empty = [facts for facts in all_facts if facts.targets == 0]
    if empty:
        yield Finding("info", "empty-mask", "images without a target", tuple(facts.name for facts in empty))


def _check_sizes(all_facts: Sequence[Facts]) -> Iterator[Finding]:
    differing = [
        (f, f.size, f.mask_size) for f in all_facts if f.size is not None and f.mask_size is not None
    ]
    for scaled, severity, message, mend in (
        (
            True,
            "warning",
            "the mask has another size than its image; it is resized, as one scale factor explains it",
            "resize the mask or find the original image; programs that do not look crash or learn nonsense",
        ),
        (
            False,
            "error",
            "the mask has another size than its image, and no single scale factor explains it",
            "find the mask that belongs to the image, or take the name out of the split",
        ),
    ):
        these = [one for one in differing if is_uniform_scale(one[1], one[2]) == scaled]
        if these:
            yield Finding(
                severity,  # type: ignore[arg-type]
                "mask-size",
                message,
                tuple(facts.name for facts, _, _ in these),
                tuple(f"image {a[0]} × {a[1]}, mask {b[0]} × {b[1]}" for _, a, b in these),
                mend,
            )
