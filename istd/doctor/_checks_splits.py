"""Checks of which names are in which split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from ..data import Parts
from .finding import Finding


def check_splits(splits: Mapping[str, tuple[str, ...]], parts: Parts | None) -> Iterator[Finding]:
    """Names listed twice, in two splits, or without a file; files that no split lists; empty splits."""
    listed: dict[str, list[str]] = {}
    for split, names in splits.items():
        for name in names:
            listed.setdefault(name, []).append(split)
    twice = [name for name, where in listed.items() if max(Counter(where).values()) > 1]
    if twice:
        yield Finding(
            "error",
            "listed-twice",
            "listed more than once in one split",
            tuple(twice),
            mend="remove the repeated lines from the split file",
        )
    several = {name: sorted(set(where)) for name, where in listed.items() if len(set(where)) > 1}
    if several:
        yield Finding(
            "error",
            "split-overlap",
            "listed in more than one split",
            tuple(several),
            tuple(" and ".join(where) for where in several.values()),
            "a test image seen in training makes the result worthless: keep each name in one split",
        )
    if parts is not None:
        yield from _check_files(listed, parts)
    if not listed:
        yield Finding("error", "no-images", "no split lists an image", mend="fill the split files")
        return
    for split, severity, effect in (
        ("train", "error", "there is nothing to train on"),
        ("val", "info", "training holds a part of the training images out"),
        ("test", "warning", "no result can be reported"),
    ):
        if not splits.get(split):
            yield Finding(severity, "empty-split", f"the {split} split is empty: {effect}")  # type: ignore[arg-type]


def _check_files(listed: Mapping[str, list[str]], parts: Parts) -> Iterator[Finding]:
    absent = [name for name in listed if name not in parts.images]
    if absent:
        yield Finding(
            "error",
            "missing-image",
            "listed in a split, but there is no such image",
            tuple(absent),
            tuple(listed[name][0] for name in absent),
            "complete the image folder, or remove the names from the split files",
        )
    unlisted = [name for name in parts.images if name not in listed]
    if unlisted:
        yield Finding(
            "warning",
            "unlisted-image",
            "there is an image, but no split lists it",
            tuple(unlisted),
            mend="add the names to a split file, or leave them out on purpose",
        )
    for kind, files in (("mask", parts.masks), ("point-image", parts.point_images)):
        stray = [path.name for name, path in (files or {}).items() if name not in parts.images]
        if stray:
            yield Finding(
                "warning",
                f"stray-{kind}",
                f"a {kind.replace('-', ' ')} without an image of its name",
                tuple(stray),
                mend="see whether the image is missing or is named otherwise",
            )
