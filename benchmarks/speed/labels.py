"""Label initialisation and evolution."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch

from istd.labels import EvolutionSettings, evolve, initialize

from .images import normalised
from .sides import Networks, Sides
from .timing import Contest

_SETTINGS = EvolutionSettings(lock="saturated")
_HD = (1080, 1920)
_TARGETS = ((100, 200), (300, 1700), (540, 960), (700, 400), (900, 1500), (1000, 60))
_EQUAL = 1e-6


def init(sides: Sides) -> list[Contest]:
    """The Canny labels of every image, in memory on both sides."""
    images = [sides.images.images.image(number).cpu().numpy() for number in range(len(sides.images))]
    points = sides.images.points

    def ours() -> list[np.ndarray]:
        return [initialize(image, at, "canny").mask for image, at in zip(images, points, strict=True)]

    contest = Contest("label initialisation, an image", ours, per=len(images))
    if sides.reference is not None:
        process = sides.reference.module("utils.mask_update").process_image

        def theirs() -> list[np.ndarray]:
            return [_their_label(process, image, at) for image, at in zip(images, points, strict=True)]

        contest.reference = theirs
        contest.check = lambda: max(
            float(np.abs((one > 0).astype(int) - (other > 0)).sum())
            for one, other in zip(ours(), theirs(), strict=True)
        )
        contest.note = "reading and writing files, which the reference does besides, left out"
    return [contest]


def evolution(sides: Networks) -> list[Contest]:
    """An image with the teacher's prediction, and the post-processing of a large image alone."""
    return [_whole(sides), _large(sides)]


def _large(sides: Sides) -> Contest:
    pred, label, points = large_image()
    contest = Contest(
        "evolution's post-processing, 1080p, 6 targets", lambda: evolve(pred, label, points, _SETTINGS)
    )
    if sides.reference is not None:
        update = sides.reference.module("utils.mask_update").update_gt_update_degen_corr

        def theirs() -> np.ndarray:
            return np.asarray(update(pred, label, 0.5, 0.5, list(_HD), degen=0.97))

        contest.reference = theirs
        contest.check = lambda: float(np.abs(evolve(pred, label, points, _SETTINGS) - theirs()).max())
        contest.bound = _EQUAL
    return contest


def large_image() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prediction float32 and label float64 [1080, 1920], and the points [6, 2], of six blurred targets."""
    rng = np.random.default_rng(0)
    seeds = np.zeros(_HD, np.float32)
    for y, x in _TARGETS:
        seeds[y, x] = 1.0
    pred = cv2.GaussianBlur(seeds, (0, 0), 2.5)
    pred = np.clip(pred / pred.max() * 0.9 + 0.02 * rng.random(_HD, np.float32), 0.0, 1.0)
    near = cv2.GaussianBlur(seeds, (0, 0), 2.0)
    label = (near > 0.3 * near.max()).astype(np.float64)
    return pred, label, np.array(_TARGETS)


def _whole(sides: Networks) -> Contest:
    assert sides.images.masks is not None
    image = sides.images.images.image(0)[None, None].float() / 255
    label = sides.images.masks.image(0).cpu().numpy().astype(np.float64)
    points = sides.images.points[0]

    def ours() -> np.ndarray:
        pred = torch.sigmoid(sides.detector.logits(image, "teacher"))[0, 0].cpu().numpy()
        return evolve(pred, label, points, _SETTINGS)

    contest = Contest("evolution of an image, teacher included", ours)
    if sides.reference is not None:
        contest.reference = _their_evolution(sides, image, label)
        their = contest.reference
        contest.check = lambda: float(np.abs(ours() - np.asarray(their())).max())
        contest.bound = 1e-5
    return contest


def _their_evolution(sides: Networks, image: torch.Tensor, label: np.ndarray) -> Callable[[], object]:
    assert sides.reference is not None
    train = sides.reference.module("train")
    update = sides.reference.module("utils.mask_update").update_gt_update_degen_corr
    cnn, dino = normalised(image, sides.mean, sides.std)

    def run() -> object:
        sides.teacher.eval()
        with torch.no_grad():
            pred = torch.sigmoid(train.test_pred(cnn, sides.teacher, dino)).cpu().numpy()[0][0]
        found: object = update(pred.astype("float32"), label, 0.5, 0.5, list(pred.shape), degen=0.97)
        return found

    return run


def _their_label(
    process: Callable[..., tuple[np.ndarray, bool]], image: np.ndarray, points: np.ndarray
) -> np.ndarray:
    """Its window around each point, and the union of what it finds in them with the points."""
    height, width = image.shape
    merged = np.zeros(image.shape, np.uint8)
    for y, x in points.tolist():
        top, left, bottom, right = max(y - 10, 0), max(x - 10, 0), min(y + 10, height), min(x + 10, width)
        window = np.s_[top:bottom, left:right]
        found, _ = process(
            (y, x),
            (top, bottom, left, right),
            image.shape,
            image[window],
            low_threshold=20,
            high_threshold=40,
        )
        merged[window] += found
        merged[y, x] = 255
    return merged
