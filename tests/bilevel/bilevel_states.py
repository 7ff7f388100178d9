"""Helpers for the tests of the solver: its states as JSON and tensors, optimisers, schedulers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler


def sgd(module: nn.Module, lr: float = 0.1, momentum: float = 0.9) -> torch.optim.SGD:
    return torch.optim.SGD(module.parameters(), lr=lr, momentum=momentum)


def same(left: nn.Module, right: nn.Module, tolerance: float = 0.0) -> None:
    for name, value in left.state_dict().items():
        torch.testing.assert_close(value, right.state_dict()[name], rtol=tolerance, atol=tolerance, msg=name)


def plain(value: Any, tensors: list[Tensor]) -> Any:
    """What JSON makes of a state whose tensors are kept apart; fails on anything else."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if type(value) is dict:
        assert all(isinstance(key, str) for key in value)
        return {key: plain(one, tensors) for key, one in value.items()}
    if type(value) is list:
        return [plain(one, tensors) for one in value]
    assert value is None or type(value) in (bool, int, float, str), type(value)
    return value


def rebuilt(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"tensor"}:
            return tensors[value["tensor"]]
        return {key: rebuilt(one, tensors) for key, one in value.items()}
    return [rebuilt(one, tensors) for one in value] if isinstance(value, list) else value


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [2, 5], 0.1),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 6)], [3]
    ),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=10.0),
    "onecycle": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=20),
}
