"""A training step against crop and batch, and an outer step against clusters K and unroll steps T."""

from __future__ import annotations

from typing import Any

import torch

from istd.engine import TrainConfig
from istd.engine.batches import TrainBatch
from istd.engine.detector import build_model, build_vfm, to_fast_layout
from istd.engine.methods import SemanticPrior
from istd.engine.runtime import tune_allocator

from .rows import Job, Recorder, Row

INNER, CLUSTERS, UNROLL = "inner step", "outer step, clusters", "outer step, unrolled"
_VFM = "random:vit_small_plus_patch16_dinov3"


def jobs(quick: bool) -> list[Job]:
    """Crop by crop at one batch size, batch by batch at one crop; then K and T."""
    if quick:
        small = {"crop": 32, "batch": 2, "vfm": "random:test_vit"}
        return [
            {"what": INNER, **small, "crop": 32},
            {"what": INNER, **small, "crop": 48},
            {"what": CLUSTERS, **small, "K": 4},
            {"what": UNROLL, **small, "K": 4, "T": 1},
            {"what": UNROLL, **small, "K": 4, "T": 2},
        ]
    inner = [(64, 4), (128, 4), (256, 4), (64, 8), (64, 16)]
    return [
        *({"what": INNER, "crop": crop, "batch": batch, "vfm": _VFM} for crop, batch in inner),
        *({"what": CLUSTERS, "crop": 64, "batch": 4, "vfm": _VFM, "K": k} for k in (4, 256, 16384)),
        *({"what": UNROLL, "crop": 32, "batch": 4, "vfm": _VFM, "K": 256, "T": t} for t in (1, 4, 16)),
    ]


def measure(job: Job) -> list[Row]:
    """The fastest of a few steps, after one that is not counted."""
    tune_allocator()
    what = job["what"]
    at: dict[str, Any] = {name: job[name] for name in ("crop", "batch", "K", "T") if name in job}
    rows = Recorder(what, at)
    method, batch = _method(job)
    if what == INNER:
        rows.best("step", lambda: method.train_step(batch), 2)
    else:
        method.train_step(batch)  # gives the optimiser its state
        rows.best("step", lambda: method.outer_step(batch, batch), 1 if job.get("T", 1) > 1 else 2)
    return rows.rows


def _method(job: Job) -> tuple[SemanticPrior, TrainBatch]:
    """The default method, and a batch whose hidden maps are computed already."""
    settings: dict[str, Any] = {
        "data": "",
        "crop": job["crop"],
        "batch_size": job["batch"],
        "vfm": job["vfm"],
    }
    if "T" in job:
        settings |= {"hypergradient": "unrolled", "unroll_steps": job["T"]}
    config = TrainConfig(**settings)
    torch.manual_seed(0)
    vfm = build_vfm(config, torch.device("cpu"))
    model = to_fast_layout(build_model(config, vfm, 0.4, 0.2))
    clusters = job.get("K", 4)
    method = SemanticPrior.build(config, model, clusters)
    side, count = job["crop"], job["batch"]
    image = torch.rand(count, 1, side, side)
    label = (torch.rand(count, 1, side, side) > 0.99).float()
    maps = None if vfm is None else vfm(image)
    return method, TrainBatch(image, maps, label, torch.arange(count) % clusters)
