from __future__ import annotations

import pytest
import torch

from istd.engine import step_losses
from istd.engine.position import Position
from istd.engine.step_losses import StepLosses
from istd.errors import ConfigError


def test_losses_are_read_in_order_and_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(step_losses.time, "monotonic", lambda: now)
    position = Position(losses=[0.5])  # of a run that goes on
    losses = StepLosses(position)
    shown = []
    for number in range(6):
        losses.add(torch.tensor(1.1 + number))
        shown.append(losses.latest())
        now += 0.2
    exact = [torch.tensor(1.1 + number).item() for number in range(6)]
    assert shown == [exact[0]] * 3 + [exact[3]] * 3
    losses.read()
    assert position.losses == [0.5, *exact]
    losses.read()
    assert len(position.losses) == 7


def test_an_epoch_after_the_first_shows_its_own_losses() -> None:
    position = Position()
    losses = StepLosses(position)
    losses.add(torch.tensor(1.0))
    assert losses.latest() == 1.0
    position.losses = []
    losses.add(torch.tensor(2.0))
    assert losses.latest() == 2.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_step(value: float) -> None:
    position = Position(epoch=2, losses=[0.5])
    losses = StepLosses(position)
    for loss in (0.25, value, 0.125):
        losses.add(torch.tensor(loss))
    with pytest.raises(ConfigError, match=r"epoch 3, step 3(.|\n)*--set lr"):
        losses.read()
