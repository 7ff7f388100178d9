"""Inner steps and the outer loss after them, with no derivative of the steps.

They are methods in form, so that they are asked as methods are: at the live parameters, with the solver's
optimiser, precision and batches. Their hypergradient is empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from ..batches import Batches
from ..hypergradients import Hypergradient, HypergradientMethod
from ..hypergradients._adjoint import advance, start
from ..hypergradients._base import Point
from ..hypergradients._outer import outer_gradients
from ..optim import UpdateRule
from ..optim.sgd import SGD, SGDSettings


class InnerSteps(HypergradientMethod):
    """F after some steps of the inner optimiser, one batch a step."""

    uses_optimizer: ClassVar[bool] = True

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self.meaning = f"F after {steps} inner step{'s' if steps > 1 else ''}"

    @property
    def unrolled_steps(self) -> int | None:
        """See `HypergradientMethod.unrolled_steps`."""
        return self._steps

    def rule(self, point: Point) -> UpdateRule:
        """The step to take."""
        assert point.rule is not None  # `uses_optimizer`
        return point.rule

    def batches(self, train: Batches) -> Sequence[Batches]:
        """What each step looks at."""
        train.check_steps(self._steps, f"train, for {self._steps} inner steps")
        return [train.at(number) for number in range(self._steps)]

    def __call__(self, point: Point) -> Hypergradient:
        """F after the steps, and the inner losses on the way."""
        rule = self.rule(point)
        now = start(point, rule)
        losses = []
        for batches in self.batches(point.train):
            taken = advance(point, rule, now, batches)
            losses.append(taken.loss)
            now = taken.after
        final = outer_gradients(point, now.inner, now.buffers)
        return Hypergradient({}, outer_loss=final.loss, inner_losses=torch.stack(losses))


class OptimizerStep(InnerSteps):
    """F after one step of the inner optimiser on the mean over all batches."""

    def __init__(self) -> None:
        super().__init__(1)

    @property
    def unrolled_steps(self) -> int | None:
        """None: it takes all batches."""
        return None

    def batches(self, train: Batches) -> Sequence[Batches]:
        """All of them, in one step."""
        return [train]


class DescentStep(OptimizerStep):
    """F after one step of plain gradient descent on the mean over all batches."""

    uses_optimizer: ClassVar[bool] = False

    def __init__(self, step_size: float) -> None:
        super().__init__()
        self._step_size = step_size
        self.meaning = f"F after a step of gradient descent, with learning rate {step_size:g}"

    def rule(self, point: Point) -> UpdateRule:
        """SGD without momentum, whatever the inner optimiser."""
        count = len(point.inner)
        return SGD([SGDSettings(self._step_size)] * count, [None] * count)
