"""What one image costs against its size: with the network and without."""

from __future__ import annotations

import numpy as np
import torch

from istd.clusters import describe
from istd.data import find_distractors
from istd.labels import EvolutionSettings, evolve, initialize
from istd.metrics import DetectionMetrics
from istd.models import create_model

from .images import GeneratedImages
from .rows import Job, Recorder, Row

CELL = "sizes"


def jobs(quick: bool) -> list[Job]:
    """One for each size, so that each has its own peak."""
    sizes = [(64, 64), (96, 96)] if quick else [(256, 256), (512, 512), (1080, 1920)]
    return [{"size": size} for size in sizes]


@torch.no_grad()
def measure(job: Job) -> list[Row]:
    """Every step that looks at a whole image."""
    height, width = job["size"]
    rows = Recorder(CELL, {"height": height, "width": width})
    made = GeneratedImages(5, (height, width))
    record = made.read(made.names[0])
    pixels = torch.from_numpy(record.image)[None, None].float() / 255
    model = create_model("mlclnet", prior=0.01).to(memory_format=torch.channels_last).eval()
    repeats = 1 if height * width > 512**2 else 3
    rows.best("network (MLCLNet), forward", lambda: model(pixels), repeats)
    first = initialize(record.image, record.points, "levels").mask
    pred = np.clip(record.image.astype(np.float32) / 200, 0, 1)
    settings = EvolutionSettings()
    rows.best("first labels (levels)", lambda: initialize(record.image, record.points, "levels"), repeats)
    rows.best(
        "evolving a label, prediction given", lambda: evolve(pred, first, record.points, settings), repeats
    )
    answer, mask = torch.from_numpy(pred)[None, None], torch.from_numpy(record.mask)[None, None]
    rows.best("metrics, prediction given", lambda: DetectionMetrics().update(answer, mask), repeats)
    rows.best("describing for the clusters", lambda: describe(record.image), repeats)
    rows.best("distractors", lambda: find_distractors(record.image, record.points), repeats)
    return rows.rows
