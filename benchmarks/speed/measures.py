"""Metrics, clustering, and the evaluation of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from istd.clusters import DESCRIPTOR_NAMES, describe, fit_clusters
from istd.engine.evaluation import evaluate
from istd.metrics import DetectionMetrics, MetricConvention

from .images import normalised
from .sides import Networks, Sides
from .timing import Contest

_EQUAL = 1e-9
_TABLE = (427, 55)  # images of SIRST v1, and the reference's number of descriptors
_K = 256


def metrics(sides: Sides) -> list[Contest]:
    """All metrics of images whose predictions are clean, and full of small false alarms."""
    generator = torch.Generator().manual_seed(0)
    assert sides.images.masks is not None
    masks = [sides.images.masks.image(number).cpu().float() for number in range(len(sides.images))]
    clean = [0.1 + 0.8 * mask for mask in masks]
    noisy = [
        torch.where(torch.rand(mask.shape, generator=generator) < 2e-3, 0.9, pred)
        for mask, pred in zip(masks, clean, strict=True)
    ]
    return [_metrics(sides, masks, preds, name) for preds, name in ((clean, "clean"), (noisy, "noisy"))]


def _metrics(sides: Sides, masks: Sequence[Tensor], preds: Sequence[Tensor], name: str) -> Contest:
    def ours() -> dict[str, float]:
        found = DetectionMetrics()
        for pred, mask in zip(preds, masks, strict=True):
            found.update(pred[None, None], mask[None, None])
        return {key: float(value) for key, value in found.compute().items()}

    contest = Contest(f"metrics of an image, {name} predictions", ours, per=len(masks))
    if sides.reference is not None:
        module = sides.reference.module("utils.metrics")

        def theirs() -> dict[str, float]:
            parts = (
                module.SigmoidMetric(),
                module.SamplewiseSigmoidMetric(1, score_thresh=0.5),
                module.PD_FA_2(1),
            )
            for pred, mask in zip(preds, masks, strict=True):
                for part in parts:
                    part.update(pred[None, None], mask[None, None])
            (_, iou), (_, niou), (fa, pd) = (part.get() for part in parts)
            return {"iou": float(iou), "niou": float(niou), "fa": float(fa), "pd": float(pd)}

        contest.reference = theirs
        contest.check = lambda: _apart(ours(), theirs())
        contest.bound = _EQUAL
    return contest


def clustering(sides: Sides) -> list[Contest]:
    """Descriptors of an image, and clusters of a table of descriptors."""
    image = sides.images.images.image(0).cpu().numpy()
    descriptors = Contest("descriptors of an image", lambda: describe(image))
    table = _table()
    clusters = Contest(
        f"clusters of {_TABLE[0]} images from their descriptors",
        lambda: fit_clusters(table, _K),
        note=f"K = {_K} on both sides, 10 starts of k-means here against 2 runs of one there",
    )
    if sides.reference is not None:
        module = sides.reference.module("utils.generate_cluster_csv")
        folder = sides.job["folder"]  # temporary, and removed by who gave it
        path = Path(folder, "image.png")
        cv2.imwrite(str(path), image)
        descriptors.reference = lambda: module.calculate_image_metrics(path)
        descriptors.check = lambda: _descriptor_distance(image, module.calculate_image_metrics(path))
        descriptors.bound = 1e-5
        descriptors.note = "equal where both define the same: mean, std, range"
        clusters.reference = _their_clusters(module, table, folder)
        if clusters.reference is None:
            clusters.note += "; the reference needs pandas, which is not installed"
    return [descriptors, clusters]


def _table() -> np.ndarray:
    """A table of correlated normal numbers, the same for both sides."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((_TABLE[0], 20)) @ rng.standard_normal((20, _TABLE[1]))


def _their_clusters(module: object, table: np.ndarray, folder: str) -> Callable[[], object] | None:
    try:
        import pandas as pd  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return None
    frame = pd.DataFrame(table, columns=[f"c{i}" for i in range(table.shape[1])])
    return lambda: module.cluster_metrics_dataframe(frame, Path(folder, "clusters.csv"))  # type: ignore[attr-defined]


def _descriptor_distance(image: np.ndarray, theirs: dict[str, float]) -> float:
    ours = dict(zip(DESCRIPTOR_NAMES, describe(image).tolist(), strict=True))
    return max(
        abs(ours[name] - theirs[name]) / max(abs(theirs[name]), 1.0)
        for name in ("mean", "std", "dynamic_range")
    )


def evaluation(sides: Networks) -> list[Contest]:
    """Images through the student, and the teacher, with all metrics."""
    return [_evaluation(sides, role) for role in ("student", "teacher")]


def _evaluation(sides: Networks, role: str) -> Contest:
    def ours() -> dict[str, float]:
        return evaluate(partial(sides.detector.logits, role=role), sides.images, MetricConvention())[0]

    contest = Contest(f"evaluation of an image, {role}", ours, per=len(sides.images))
    if sides.reference is not None:
        their_evaluate = sides.reference.module("train").evaluate
        loader = _their_loader(sides)
        network = sides.teacher if role == "teacher" else sides.student

        def theirs() -> dict[str, float]:
            found = their_evaluate(loader, network, sides.device, teacher=role == "teacher")
            return {
                key: float(found[name])
                for key, name in (("iou", "IoU"), ("niou", "nIoU"), ("fa", "FA"), ("pd", "PD"))
            }

        contest.reference = theirs
        contest.check = lambda: _apart(ours(), theirs())
        contest.bound = _EQUAL
    return contest


def _their_loader(sides: Networks) -> list[tuple[Tensor, ...]]:
    assert sides.images.masks is not None
    items: list[tuple[Tensor, ...]] = []
    for number in range(len(sides.images)):
        image = sides.images.images.image(number)[None, None].float() / 255
        cnn, dino = normalised(image, sides.mean, sides.std)
        mask = sides.images.masks.image(number)[None].float()
        items.append((cnn, mask, torch.tensor([mask.shape[-2]]), torch.tensor([mask.shape[-1]]), dino))
    return items


def _apart(ours: dict[str, float], theirs: dict[str, float]) -> float:
    return max(abs(ours[name] - value) for name, value in theirs.items())
