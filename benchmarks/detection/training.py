"""The library's training loop, with the probe and the bookkeeping of a cell hung into it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from istd.data import load_split
from istd.engine import TrainConfig, Trainer, probability_maps
from istd.engine.methods import Method, SemanticPrior
from istd.metrics import GroupMetrics

from .probe import Probe
from .usage import Usage


class CellTrainer(Trainer):
    """`Trainer`, looked at. What it trains is not changed.

    Args:
        config: what to train, or None to go on with the run in `out`.
        out: the run folder.
        usage: written with every checkpoint.
        probe: attached to the outer problem, if there is one.
        console: where to print.
    """

    def __init__(
        self, config: TrainConfig | None, out: Path, *, usage: Usage, probe: Probe | None, console: Console
    ) -> None:
        super().__init__(config, out, resume=config is None, console=console)
        self._usage = usage
        self._probe = probe
        self.trained: dict[str, float] = {}

    def _method(self, model: torch.nn.Module, num_clusters: int) -> Method:
        method = super()._method(model, num_clusters)
        if self._probe is not None and isinstance(method, SemanticPrior) and method.has_outer_problem:
            self._probe.attach(method, self.config, lambda: self.position.epoch)
        return method

    def _save(self) -> None:
        self._usage.save()
        super()._save()

    def group_scores(self) -> dict[str, Any]:
        """Scores by target group on the test split, by role; empty where the split has no masks."""
        dataset = self.corpus.dataset
        test = load_split(dataset, "test") if dataset.splits["test"] else None
        if test is None or test.masks is None:
            return {}
        scores = {}
        for role in ("student", "teacher") if self.detector.has_teacher else ("student",):
            groups = GroupMetrics(self.convention)
            for number, probability in probability_maps(partial(self.detector.logits, role=role), test):
                groups.update(test.images.image(number), probability, test.masks.image(number))
            scores[role] = {str(group): values for group, values in groups.compute().items()}
        return scores
