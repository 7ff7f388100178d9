"""Clustering against the number of images, at a fixed number of clusters and at the default one."""

from __future__ import annotations

import numpy as np

from istd.clusters import DESCRIPTOR_NAMES, fit_clusters

from .rows import Job, Recorder, Row

CELL = "clustering"


def jobs(quick: bool) -> list[Job]:
    """None is the default: a cluster for about 11 images."""
    if quick:
        return [{"images": 60, "K": 4}, {"images": 60, "K": None}]
    return [
        {"images": n, "K": k} for k, counts in ((64, (4000, 16000)), (None, (1000, 4000))) for n in counts
    ]


def measure(job: Job) -> list[Row]:
    """Fit to descriptors drawn at random, of a few kinds."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(32, len(DESCRIPTOR_NAMES)))
    table = kinds[rng.integers(0, 32, job["images"])] + 0.5 * rng.normal(size=(job["images"], kinds.shape[1]))
    rows = Recorder(CELL, {"images": job["images"], "K": job["K"]})
    rows.measure("fit", lambda: fit_clusters(table, job["K"]), job["images"])
    return rows.rows
