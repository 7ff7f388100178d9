"""Region metrics that are plain, slow and obviously right, for tests to compare with."""

from __future__ import annotations

import itertools
import math

import numpy as np

from istd.metrics import MetricConvention

Region = list[tuple[int, int]]


def slow_regions(mask: np.ndarray, connectivity: int) -> list[Region]:
    """Connected regions in raster order of their first pixel, by flood fill."""
    height, width = mask.shape
    seen: set[tuple[int, int]] = set()
    regions = []
    for start in itertools.product(range(height), range(width)):
        if not mask[start] or start in seen:
            continue
        region, todo = [], [start]
        seen.add(start)
        while todo:
            y, x = todo.pop()
            region.append((y, x))
            for dy, dx in itertools.product((-1, 0, 1), repeat=2):
                there = (y + dy, x + dx)
                inside = 0 <= there[0] < height and 0 <= there[1] < width
                if (connectivity == 8 or not (dy and dx)) and inside and mask[there] and there not in seen:
                    seen.add(there)
                    todo.append(there)
        regions.append(region)
    return regions


def slow_distance(one: Region, other: Region) -> float:
    (ay, ax), (by, bx) = [
        [sum(p[i] for p in region) / len(region) for i in (0, 1)] for region in (one, other)
    ]
    return math.sqrt((ay - by) * (ay - by) + (ax - bx) * (ax - bx))


def slow_matches(true: list[Region], found: list[Region], c: MetricConvention) -> list[tuple[int, int]]:
    if c.matching == "hungarian":
        return slow_best_assignment(true, found, c.distance)
    pairs: list[tuple[int, int]] = []
    for t, target in enumerate(true):
        free = [p for p in range(len(found)) if p not in {used for _, used in pairs}]
        if c.matching == "overlap":
            shared = {p: len(set(target) & set(found[p])) for p in free}
            options = sorted((p for p in free if shared[p]), key=lambda p: (-shared[p], p))
        else:
            near = {p: slow_distance(target, found[p]) for p in free}
            options = [p for p in free if near[p] < c.distance]
            if c.matching == "nearest":
                options.sort(key=lambda p: (near[p], p))
        if options:
            pairs.append((t, options[0]))
    return pairs


def slow_best_assignment(true: list[Region], found: list[Region], limit: float) -> list[tuple[int, int]]:
    """Most pairs, then least distance, by trying every way to give each target a region or none."""
    Answer = tuple[int, float, list[tuple[int, int]]]
    known: dict[tuple[int, frozenset[int]], Answer] = {}

    def best(t: int, used: frozenset[int]) -> Answer:
        if t == len(true):
            return 0, 0.0, []
        if (t, used) not in known:
            answer = best(t + 1, used)
            for p in range(len(found)):
                distance = slow_distance(true[t], found[p])
                if p in used or not distance < limit:
                    continue
                pairs, total, rest = best(t + 1, used | {p})
                if (-pairs - 1, total + distance) < (-answer[0], answer[1] - 1e-12):
                    answer = pairs + 1, total + distance, [(t, p), *rest]
            known[t, used] = answer
        return known[t, used]

    return best(0, frozenset())[2]


def slow_targets(pred: np.ndarray, target: np.ndarray, c: MetricConvention) -> tuple[int, int, int, int]:
    """(targets, detected, predicted, false area)."""
    found, true = slow_regions(pred, c.connectivity), slow_regions(target, c.connectivity)
    pairs = slow_matches(true, found, c)
    matched = [len(found[p]) for _, p in pairs]
    areas = [len(region) for region in found]
    false = (
        sum(a for a in areas if a not in matched) if c.false_area == "by_value" else sum(areas) - sum(matched)
    )
    return len(true), len(pairs), len(found), false
