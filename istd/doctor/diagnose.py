"""Looks a dataset over: `istd doctor`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from .._paths import given_path
from ..data import Dataset, DataWarning, open_dataset
from ..data.layouts import find_layout
from ..data.opening import check_mask_threshold
from ..errors import DataError
from ._checks_duplicates import check_duplicates
from ._checks_images import check_images
from ._checks_masks import check_masks
from ._checks_points import check_points
from ._checks_splits import check_splits
from ._facts import Facts, facts_of_files, facts_of_record
from ._scenes import SceneIndex, check_scenes
from .finding import SEVERITIES, Finding, Report


def diagnose(
    path: str | Path,
    *,
    layout: str | None = None,
    mask_threshold: float | None = None,
    scenes: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Look at every image, mask and point of a dataset and say what is wrong.

    Unlike `open_dataset` it does not stop at the first fault. Only images that a split lists are read.

    Args:
        path: a dataset's folder or a packed file.
        layout: the name of a layout instead of looking.
        mask_threshold: where to cut masks with soft edges; see `istd.data.read_mask`.
        scenes: also look for the same scene in two splits, which takes most of the time.
        progress: called with (images done, images in all) after each.

    Raises:
        DataError: nothing is there, or no layout fits: there is nothing to look at.
        ConfigError: a threshold outside (0, 1).
    """
    path = given_path(path)
    check_mask_threshold(mask_threshold)
    if not path.is_dir():
        return _diagnose_dataset(open_dataset(path), scenes, progress)
    found = find_layout(path, layout)
    if found.parts is None:
        return _diagnose_dataset(open_dataset(path, layout=layout), scenes, progress)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            parts = found.parts(path)
        except DataError as error:
            broken = Finding("error", "layout", str(error), mend=error.fix or "")
            return Report(path, found.name, {}, (broken,))
    findings = [
        Finding("info", "layout", str(one.message)) for one in said if issubclass(one.category, DataWarning)
    ]
    findings += check_splits(parts.splits, parts)
    listed = _split_of(parts.splits)
    names = [name for name in listed if name in parts.images]
    index = SceneIndex(len(names)) if scenes else None

    def read(name: str) -> Facts:
        return facts_of_files(name, listed[name], path, parts, mask_threshold, _looker(index, listed))

    findings += _check_all(names, read, index, listed, frozenset(parts.unannotated()), progress)
    return _report(path, found.name, parts.splits, findings)


def _diagnose_dataset(dataset: Dataset, scenes: bool, progress: Callable[[int, int], None] | None) -> Report:
    """For datasets that are not folders of files; what opening them refuses needs no check here."""
    listed = _split_of(dataset.splits)
    index = SceneIndex(len(listed)) if scenes else None
    notes: dict[str, str] = {}

    def read(name: str) -> Facts:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataWarning)
                record = dataset.read(name)
        except DataError as error:
            return Facts(name, listed[name], problem=error.problem)
        if record.note is not None:
            notes[name] = record.note
        return facts_of_record(listed[name], record, _looker(index, listed))

    findings = list(check_splits(dataset.splits, None))
    findings += _check_all(list(listed), read, index, listed, dataset.unannotated, progress)
    if notes:
        findings.append(
            Finding("warning", "mended", "mended when it was packed", tuple(notes), tuple(notes.values()))
        )
    return _report(dataset.root, dataset.layout, dataset.splits, findings)


def _check_all(
    names: list[str],
    read: Callable[[str], Facts],
    index: SceneIndex | None,
    listed: Mapping[str, tuple[str, ...]],
    unannotated: Collection[str],
    progress: Callable[[int, int], None] | None,
) -> Iterator[Finding]:
    all_facts = []
    for name in names:
        all_facts.append(read(name))
        if progress is not None:
            progress(len(all_facts), len(names))
    for check in (check_images, check_duplicates, check_masks):
        yield from check(all_facts)
    yield from check_points(all_facts, unannotated)
    if index is not None:
        digests = {facts.name: facts.digest for facts in all_facts}
        yield from check_scenes(index, {name: splits[0] for name, splits in listed.items()}, digests)


def _looker(
    index: SceneIndex | None, listed: Mapping[str, tuple[str, ...]]
) -> Callable[[str, np.ndarray], None]:
    def look(name: str, image: np.ndarray) -> None:
        # An image in two splits is reported as such, not as a scene that it shares with itself.
        if index is not None and len(listed[name]) == 1:
            index.add(name, listed[name][0], image)

    return look


def _split_of(splits: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    listed: dict[str, tuple[str, ...]] = {}
    for split, names in splits.items():
        for name in dict.fromkeys(names):
            listed[name] = (*listed.get(name, ()), split)
    return listed


def _report(
    path: Path, layout: str, splits: Mapping[str, tuple[str, ...]], findings: list[Finding]
) -> Report:
    ordered = sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    return Report(path, layout, {split: len(names) for split, names in splits.items()}, tuple(ordered))
