"""Checks of the image files themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ._facts import Facts
from .finding import Finding


def check_images(all_facts: Sequence[Facts]) -> Iterator[Finding]:
    """Unreadable or empty images, bit depth, channels."""
    broken = [facts for facts in all_facts if facts.problem is not None]
    if broken:
        yield Finding(
            "error",
            "unreadable-image",
            "the image cannot be read",
            tuple(facts.name for facts in broken),
            tuple(str(facts.problem) for facts in broken),
            "copy or export it again, or take its name out of the split",
        )
    good = [facts for facts in all_facts if facts.problem is None]
    flat = [facts for facts in good if facts.value_range[0] == facts.value_range[1]]
    if flat:
        yield Finding(
            "warning",
            "constant-image",
            "all pixels have the same value",
            tuple(facts.name for facts in flat),
            tuple(f"value {facts.value_range[0]}" for facts in flat),
        )
    yield from _check_depth(good)
    yield from _check_channels(good)


def _check_depth(good: Sequence[Facts]) -> Iterator[Finding]:
    deep = [facts for facts in good if facts.depth == 16]
    if deep and len(deep) < len(good):
        fewer = min(deep, [facts for facts in good if facts.depth != 16], key=len)
        yield Finding(
            "warning",
            "bit-depth",
            f"{len(deep)} images have 16 bits and {len(good) - len(deep)} have 8",
            tuple(facts.name for facts in fewer),
            tuple(f"{facts.depth} bits" for facts in fewer),
            "16-bit images are stretched from their minimum and maximum, 8-bit ones taken as they are",
        )
    elif deep:
        low = min(facts.value_range[0] for facts in deep)
        high = max(facts.value_range[1] for facts in deep)
        yield Finding(
            "info",
            "bit-depth",
            f"all images have 16 bits, with values from {low} to {high}; "
            "each is stretched from its own minimum and maximum",
        )
    shallow = [facts for facts in deep if facts.value_range[1] <= 255]
    if shallow:
        yield Finding(
            "warning",
            "bit-depth",
            "16-bit files with values up to 255 are taken as 8-bit images",
            tuple(facts.name for facts in shallow),
        )


def _check_channels(good: Sequence[Facts]) -> Iterator[Finding]:
    modes = Counter(facts.mode for facts in good if facts.mode is not None)
    coloured = [facts for facts in good if facts.channel_difference > 0]
    if len(modes) > 1 or coloured:
        kinds = ", ".join(f"{count} {mode}" for mode, count in modes.most_common())
        message = f"channels: {kinds}; all are read as gray"
        if coloured:
            worst = max(coloured, key=lambda facts: facts.channel_difference)
            message += (
                f". In {len(coloured)} the colours differ, by up to {worst.channel_difference} levels "
                f"({worst.name})"
            )
        yield Finding("info", "channels", message)
    alpha = [facts for facts in good if facts.has_alpha]
    if alpha:
        yield Finding(
            "warning",
            "transparency",
            "some pixels are transparent, which is ignored",
            tuple(facts.name for facts in alpha),
            mend="export without an alpha channel",
        )
