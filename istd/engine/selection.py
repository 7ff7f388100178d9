"""How the model that is kept is chosen; never by the test split."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial

import numpy as np

from ..data import DataWarning, ImageSet
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
        val-labels, or last where there are no labels either. Without a target in any validation image the
        IoU is 0 at every epoch and tells none from another: "auto" then is last, and a `DataWarning` says so.

    Raises:
        ConfigError: what the rule needs is not there.
    """
    masks, has_labels = corpus.val.masks, method_class(config.method).supervision == "points"
    usable = {
        "val-masks": masks is not None and any(bool(masks.image(i).any()) for i in range(len(masks))),
        "val-labels": has_labels and any(map(len, corpus.val.points)),
        "last": True,
    }
    if config.selection == "auto":
        chosen = next(rule for rule, well in usable.items() if well)
        if chosen == "last" and (masks is not None or has_labels):
            warnings.warn(
                f"none of the {len(corpus.val)} validation images has a target, so the weights of the last "
                "epoch are kept: there is nothing to choose better ones by. Give the validation split images "
                "with targets; where it is drawn from the training images, try another --set val_seed",
                DataWarning,
                stacklevel=2,
            )
        return chosen
    if config.selection == "val-masks" and masks is None:
        raise ConfigError(
            "--set selection=val-masks needs masks for the validation split",
            found="validation images without masks",
            fix="use val-labels or last",
        )
    if config.selection == "val-labels" and not has_labels:
        raise ConfigError(
            "--set selection=val-labels needs a method that makes labels", found=f"--method {config.method}"
        )
    if not usable[config.selection]:
        raise ConfigError(
            f"--set selection={config.selection} needs a validation image with a target",
            found=f"none in {len(corpus.val)} images",
            fix="give the validation split images with targets, or use last",
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
