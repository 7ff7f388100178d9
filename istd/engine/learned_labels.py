"""The start `learned`: boundary fractions of a run, taught by its trusted masks."""

from __future__ import annotations

from ..data import ImageSet
from ..labels import ContrastSettings
from ..labels.learn import LearnedBoundaries, LearnSettings, learn_boundaries
from ..ragged import LazySequence
from .config import TrainConfig
from .pack_cache import Progress
from .seeding import derive_seed
from .trusted import Trusted


def learn_start(
    train: ImageSet, trusted: Trusted, config: TrainConfig, progress: Progress | None = None
) -> LearnedBoundaries:
    """Learn a boundary fraction for each kind of target from the training split alone.

    It follows `val_seed`, as the draw of trusted masks does, not the seed of the run: runs that compare
    start from the same labels.

    Raises:
        DataError: no trusted mask shows a target at a point.
    """
    prior = ContrastSettings().fraction if config.contrast_fraction is None else config.contrast_fraction
    report = None if progress is None else lambda done, total: progress("learning boundaries", done, total)
    return learn_boundaries(
        LazySequence(lambda number: train.images.image(number).cpu().numpy(), len(train)),
        train.points,
        [trusted.get(number) for number in range(len(train))],
        ContrastSettings(fraction=prior),
        LearnSettings(
            clusters=config.boundary_clusters,
            hypergradient=config.boundary_hypergradient,
            seed=derive_seed(config.val_seed, "boundaries") % 2**32,
        ),
        report,
    )
