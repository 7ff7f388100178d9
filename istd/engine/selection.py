"""How the model that is kept is chosen; never by the test split."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from ..data import ImageSet
from ..errors import ConfigError
from ..labels import SparseLabel, SparseLabels
from ..metrics import MetricConvention
from .config import TrainConfig
from .corpus import Corpus
from .detector import Detector
from .evaluation import evaluate
from .label_state import LabelState
from .methods import method_class
from .progress import Bars
from .ranks import ALONE, Ranks


def selection_rule(config: TrainConfig, corpus: Corpus) -> str:
    """The rule that `config.selection` comes to on this data.

    Returns:
        "val-masks": IoU with the validation masks. "val-labels": IoU with the validation labels, made from
        points. "last": the last epoch, whatever it is worth. "auto" is val-masks where there are masks, else
        val-labels, or last where there are no labels either.

    Raises:
        ConfigError: what the rule needs is not there.
    """
    has_masks = corpus.val.masks is not None
    has_labels = method_class(config.method).supervision == "points"
    if config.selection == "auto":
        return "val-masks" if has_masks else "val-labels" if has_labels else "last"
    if config.selection == "val-masks" and not has_masks:
        raise ConfigError(
            "--set selection=val-masks needs masks for the validation split",
            found="validation images without masks",
            fix="use val-labels or last",
        )
    if config.selection == "val-labels" and not has_labels:
        raise ConfigError(
            "--set selection=val-labels needs a method that makes labels", found=f"--method {config.method}"
        )
    return config.selection


def selection_images(rule: str, corpus: Corpus, labels: LabelState | None) -> ImageSet:
    """The validation images with the masks that `rule` scores against.

    For "val-labels" these are the first labels: later ones follow the model and would flatter it.
    """
    if rule != "val-labels" or labels is None:
        return corpus.val
    first = labels.store.sparse(0, corpus.val.names)
    hard = (SparseLabel.of((label.dense() > 0.5).astype(np.float32)) for label in first)
    return replace(corpus.val, masks=SparseLabels(hard, corpus.val.images.device))


def validate(
    detector: Detector, images: ImageSet, convention: MetricConvention, bars: Bars, ranks: Ranks = ALONE
) -> dict[str, float]:
    """The metrics of student and teacher on what is selected by, as `val_student_iou` and the like."""
    values: dict[str, float] = {}
    for role in ("student", "teacher") if detector.has_teacher else ("student",):
        predict, report = partial(detector.logits, role=role), partial(bars, f"validation, {role}")
        found, _ = evaluate(predict, images, convention, report, ranks)
        values.update({f"val_{role}_{key}": value for key, value in found.items()})
    return values
