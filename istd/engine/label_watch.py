"""How good the labels of a run are, measured again only when they have changed."""

from __future__ import annotations

from .corpus import Corpus
from .label_state import LabelState, label_quality
from .ranks import ALONE, Ranks


class LabelWatch:
    """The label part of an epoch's line in the log.

    Labels change only with a new version of their store, so their IoU is kept by version: measuring it looks
    at every pixel of every image.
    """

    def __init__(self, corpus: Corpus, ranks: Ranks = ALONE) -> None:
        self._corpus = corpus
        self._ranks = ranks
        self._version = -1
        self._record: dict[str, float] = {}

    @property
    def reads_val(self) -> bool:
        """Whether it looks at validation labels: these can be measured where they have masks."""
        return self._corpus.val.masks is not None

    def record(self, labels: LabelState | None) -> dict[str, float]:
        """The share of images that train, and the labels' IoU with the masks of splits that have them."""
        if labels is not None and labels.store.latest != self._version:
            self._record = self._measure(labels)
            self._version = labels.store.latest
        return dict(self._record)

    def _measure(self, labels: LabelState) -> dict[str, float]:
        pool = labels.pool_indices
        record = {"pool_fraction": len(pool) / len(labels.pool)}
        for name, split, images, only in (
            ("label_iou_train", labels.train, self._corpus.train, labels.evolving_indices),
            ("label_iou_val", labels.val, self._corpus.val, None),
        ):
            quality = label_quality(split, images, only, self._ranks)
            if quality is not None:
                record[name] = quality
        return record
