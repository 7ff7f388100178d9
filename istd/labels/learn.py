"""Learn the boundary fraction of each kind of target, through a classifier trained on the labels it makes.

    inner problem: a pixel classifier minimises BCE + soft IoU on soft labels that the fractions cut out of
                   training images without masks (`boundary.py`);
    outer problem: the fractions minimise 1 − soft IoU of that classifier on the trusted masks, plus the pull
                   of `BoundaryFractions` towards the prior and of the kinds towards each other.

The hypergradient goes through the classifier's optimiser steps (or the implicit function theorem), by
`bilevel.Solver`. So a fraction is judged by what training on its labels leads to, not by the labels; and a
kind of target that no trusted image shows still moves, as far as the classifier carries over to the others.
The outer loss is an IoU because the labels are meant to have one: cross-entropy on the masks punishes the
confidence of a classifier that was trained on sharp labels, and answers fractions twice as high.

Kinds are k-means clusters of traits of single targets (contrast and size). On SIRST v1, one fraction for each
of 4 kinds could add 0.017 to the mean IoU of labels, if all masks chose it; a few masks tell little of that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

import bilevel

from ..clusters import Clusters, fit_clusters
from ..errors import ConfigError, DataError, LabelError
from ._checks import IntArray, check_image, check_points
from ._initial import InitialLabels, initialize
from ._pixel_problem import PixelClassifier, PixelTable, inner_loss, iou_loss
from ._target_windows import TRAITS, cut_masks, cut_targets
from .boundary import BoundaryFractions
from .contrast import ContrastSettings

Progress = Callable[[int, int], None]

_LOSS_OFF_BEST = 0.05 / 0.15**2  # IoU that a target loses, roughly, at a fraction 0.15 off its best, squared


@dataclass(frozen=True)
class LearnSettings:
    """How the fractions are learned.

    Attributes:
        clusters: kinds of targets; never more than there are targets that differ. One is what few masks can
            tell apart.
        hypergradient: "unrolled" through `unroll_steps` steps, or "implicit" (damped conjugate gradient).
        unroll_steps: T.
        warm_up: steps of the classifier on labels of the prior, before fractions move.
        outer_steps: updates of the fractions, each with one step of the classifier; the answer is the mean
            over the later half, because every one of them sees other targets.
        batch: targets in a batch of the classifier.
        inner_lr, outer_lr: learning rates (Adam), of the classifier and of the fractions' logits.
        softness: of the labels' edges, as a share of the contrast. A soft label has mass on both sides of its
            edge, which an IoU with a sharp mask answers by a higher fraction: on all training targets of
            SIRST v1 the best fraction is 0.36 at softness 0.1, 0.30 at 0.03 and 0.28 for hard labels.
        prior_targets: how many trusted targets the prior is worth.
        deviation_targets: how many trusted targets of a kind it takes to believe half of its deviation from
            the others: the variance of fractions between targets over that between kinds.
        seed: of clusters, classifier and batches.
    """

    clusters: int = 1
    hypergradient: Literal["unrolled", "implicit"] = "unrolled"
    unroll_steps: int = 5
    warm_up: int = 150
    outer_steps: int = 40
    batch: int = 16
    inner_lr: float = 1e-2
    outer_lr: float = 5e-2
    softness: float = 0.03
    prior_targets: float = 3.0
    deviation_targets: float = 9.0
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.clusters, self.unroll_steps, self.outer_steps, self.batch)
        if min(counts) < 1 or self.warm_up < 0:
            raise ConfigError("too few clusters, steps or targets to learn boundary fractions", found=self)
        if self.hypergradient not in ("unrolled", "implicit"):
            raise ConfigError(
                "unknown hypergradient", found=self.hypergradient, expected="unrolled or implicit"
            )
        if min(self.inner_lr, self.outer_lr, self.softness) <= 0:
            raise ConfigError("learning rates and softness must be positive", found=self)
        if min(self.prior_targets, self.deviation_targets) < 0:
            raise ConfigError("a prior cannot be worth fewer than no targets", found=self)


@dataclass(frozen=True)
class LearnedBoundaries:
    """A boundary fraction for each kind of target.

    Attributes:
        fractions: of each kind, in (0, 1).
        clusters: how a target's kind is found from its traits.
        settings: of the contrast start; its fraction is the prior.
        learning: how they were learned.
        trusted_targets: how many trusted targets of each kind there were.
        history: float64 [outer steps, kinds], the fractions after each step.
    """

    fractions: tuple[float, ...]
    clusters: Clusters
    settings: ContrastSettings
    learning: LearnSettings
    trusted_targets: tuple[int, ...]
    history: npt.NDArray[np.float64]

    def point_fractions(self, image: npt.NDArray[np.uint8], points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The fraction at each point, float64 [N]; the prior where there is no contrast to go by."""
        image = check_image(image)
        where = check_points(points, image.shape)
        found = np.full(len(where), self.settings.fraction)
        targets = cut_targets([image], [where], self.settings)
        if len(targets):
            kinds = self.clusters.predict(targets.traits)
            found[targets.owner[:, 1]] = np.array(self.fractions)[kinds]
        return found

    def initialize(self, image: npt.NDArray[np.uint8], points: npt.ArrayLike) -> InitialLabels:
        """The first label of an image: the `contrast` start, with each point's own fraction.

        Args:
            image: uint8 [H, W].
            points: integer [N, 2], rows (y, x).

        Raises:
            DataError: an unusable image or point.
        """
        image = check_image(image)
        where = check_points(points, image.shape)
        mask = np.zeros(image.shape, np.float32)
        succeeded = np.zeros(len(where), np.bool_)
        fractions = self.point_fractions(image, where)
        for fraction in np.unique(fractions):
            same = np.flatnonzero(fractions == fraction)
            part = initialize(
                image, where[same], "contrast", replace(self.settings, fraction=float(fraction))
            )
            np.maximum(mask, part.mask, out=mask)
            succeeded[same] = part.succeeded
        return InitialLabels(mask, succeeded)

    def describe(self) -> dict[str, Any]:
        """All that a reader needs to repeat the labels, as JSON values."""
        return {
            "fractions": list(self.fractions),
            "trusted_targets": list(self.trusted_targets),
            "kinds": {
                "traits": list(TRAITS),
                "columns": self.clusters.columns.tolist(),
                "mean": self.clusters.mean.tolist(),
                "scale": self.clusters.scale.tolist(),
                "components": self.clusters.components.tolist(),
                "centers": self.clusters.centers.tolist(),
            },
            "contrast": asdict(self.settings),
            "learning": asdict(self.learning),
        }


def learn_boundaries(
    images: Sequence[npt.NDArray[np.uint8]],
    points: Sequence[npt.ArrayLike],
    masks: Sequence[npt.NDArray[Any] | None],
    settings: ContrastSettings | None = None,
    learning: LearnSettings | None = None,
    progress: Progress | None = None,
) -> LearnedBoundaries:
    """Learn the boundary fractions from a few trusted masks; the same input, seed and number of
    threads give the same bits.

    It runs on the CPU, with random streams of its own, whatever the device of the caller.

    Args:
        images: uint8 [H, W] each, the training images.
        points: integer [K, 2] each, rows (y, x).
        masks: the whole truth of the trusted images, bool or {0, 1} or {0, 255} [H, W]; None elsewhere.
        settings: of the contrast start; its fraction is the prior. The defaults if None.
        learning: how to learn; the defaults if None.
        progress: called with (steps done, steps in all).

    Raises:
        DataError: no trusted mask with a target, no target without one, unusable images or points.
        LabelError: a mask whose size differs from its image.
        ConfigError: the prior is not within (0, 1).
    """
    settings, learning = settings or ContrastSettings(), learning or LearnSettings()
    truths, places = _checked(images, points, masks)
    targets = cut_targets(images, places, settings)
    owners = targets.owner[:, 0]
    truth = cut_masks(truths, places, targets)
    shown = np.array([mask is not None for mask in masks])[owners] if len(targets) else np.zeros(0, np.bool_)
    trusted = np.flatnonzero(shown & (truth & targets.counted).any(axis=(1, 2)))
    others = np.flatnonzero(~shown)
    if len(trusted) == 0:
        raise DataError(
            "boundary fractions are learned from trusted masks, and none shows a target",
            found=f"{sum(mask is not None for mask in masks)} trusted masks",
            expected="at least one mask with a target at one of its points",
            fix="allow some with --set trusted_masks=K, or start from --set label_init=contrast",
        )
    if len(others) == 0:
        raise DataError(
            "there is nothing to train the classifier on but the trusted masks themselves",
            found=f"{len(trusted)} targets, all of them in trusted images",
            expected="training images with points and without trusted masks",
            fix="trust fewer masks, or train with --method full",
        )
    clusters = fit_clusters(targets.traits, learning.clusters, learning.seed, variance=1.0)
    fractions = BoundaryFractions(clusters.num_clusters, settings.fraction)
    table = PixelTable.of(targets, truth, clusters.assignment)
    history = _learn(table, fractions, trusted, others, learning, progress)
    later = history[learning.outer_steps // 2 :].mean(axis=0)
    counts = np.bincount(clusters.assignment[trusted], minlength=clusters.num_clusters)
    return LearnedBoundaries(
        tuple(later.tolist()), clusters, settings, learning, tuple(counts.tolist()), history
    )


def boundary_solver(
    table: PixelTable, fractions: BoundaryFractions, trusted: int, learning: LearnSettings
) -> bilevel.Solver:
    """The bilevel problem, with a classifier of its own.

    Args:
        table: pixels of all targets.
        fractions: what is learned.
        trusted: how many trusted targets there are, which the pulls are weighed against.
        learning: how.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(learning.seed)  # the CPU's alone
        classifier = PixelClassifier(table.features.shape[1]).to(table.features.dtype)

    def inner(model: PixelClassifier, outer: BoundaryFractions, batch: torch.Tensor) -> torch.Tensor:
        return inner_loss(table, model, outer, batch, learning.softness)

    def outer(model: PixelClassifier, outer: BoundaryFractions, batch: torch.Tensor) -> torch.Tensor:
        weights = (learning.prior_targets / trusted, learning.deviation_targets / trusted)
        return iou_loss(table, model, batch) + _LOSS_OFF_BEST * outer.pull(*weights)

    implicit = bilevel.Implicit(bilevel.ConjugateGradient(max_iterations=10, tolerance=1e-3, damping=1.0))
    unrolled = bilevel.Unrolled(steps=learning.unroll_steps)
    return bilevel.Solver(
        inner,
        outer,
        inner=classifier,
        outer=fractions,
        inner_optimizer=torch.optim.Adam(classifier.parameters(), lr=learning.inner_lr),
        outer_optimizer=torch.optim.Adam(fractions.parameters(), lr=learning.outer_lr),
        hypergradient=unrolled if learning.hypergradient == "unrolled" else implicit,
        process_group=None,
    )


def _learn(
    table: PixelTable,
    fractions: BoundaryFractions,
    trusted: IntArray,
    others: IntArray,
    learning: LearnSettings,
    progress: Progress | None,
) -> npt.NDArray[np.float64]:
    """The fractions after each outer step, float64 [outer steps, kinds]."""
    solver = boundary_solver(table, fractions, len(trusted), learning)
    stream = torch.Generator().manual_seed(learning.seed)
    pool, judged = torch.from_numpy(others), torch.from_numpy(trusted)

    def batch() -> torch.Tensor:
        return pool[torch.randint(len(pool), (learning.batch,), generator=stream)]

    steps = learning.unroll_steps if learning.hypergradient == "unrolled" else 1
    total = learning.warm_up + learning.outer_steps
    history = []
    for step in range(total):
        if step < learning.warm_up:
            solver.inner_step(batch())
        else:
            solver.step(bilevel.Batches(batch() for _ in range(steps)), judged)
            history.append(fractions.fractions().detach().double().numpy().copy())
        if progress is not None:
            progress(step + 1, total)
    return np.array(history)


def _nowhere(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """False everywhere, in no memory: nearly all images have no mask."""
    return np.broadcast_to(np.False_, shape)


def _checked(
    images: Sequence[npt.NDArray[np.uint8]],
    points: Sequence[npt.ArrayLike],
    masks: Sequence[npt.NDArray[Any] | None],
) -> tuple[list[npt.NDArray[np.bool_]], list[IntArray]]:
    """Truths, empty where there is no mask, and points."""
    if not len(images) == len(masks) == len(points):
        raise DataError(
            "images, masks and points differ in number", found=(len(images), len(masks), len(points))
        )
    truths, places = [], []
    for index, (image, mask, where) in enumerate(zip(images, masks, points, strict=True)):
        truth = _nowhere(check_image(image).shape) if mask is None else np.asarray(mask) != 0
        if truth.shape != image.shape:
            raise LabelError(
                f"mask {index} differs in size from its image", found=truth.shape, expected=image.shape
            )
        truths.append(truth)
        places.append(check_points(where, image.shape))
    return truths, places
