"""Where a run stands."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Position:
    """Where a run stands: the next step, and what is known so far.

    Attributes:
        epoch, step: the next step to take.
        losses: losses of the epoch's steps so far.
        noted: what the epoch's line in the log has so far.
        best_score, best_epoch: of the selected model; -1 before the first evaluation.
        evolving_since: the first epoch after a loss low enough for labels to evolve; -1 until then.
        label_version: of the label store; -1 without one.
        log_lines: lines of the log that belong to what is done.
        seconds: time spent training so far.
    """

    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    noted: dict[str, float] = field(default_factory=dict)
    best_score: float = -1.0
    best_epoch: int = -1
    evolving_since: int = -1
    label_version: int = -1
    log_lines: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        whole = (
            self.epoch,
            self.step,
            self.best_epoch,
            self.evolving_since,
            self.label_version,
            self.log_lines,
        )
        if not all(type(value) is int for value in whole) or min(self.epoch, self.step, self.log_lines) < 0:
            raise TypeError(f"{whole} are not the numbers of a position")
        if not all(isinstance(value, int | float) for value in (self.best_score, self.seconds)):
            raise TypeError("best_score and seconds are numbers")
