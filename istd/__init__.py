"""Infrared small target detection from one point per target.

Names are loaded when first used, so that `istd --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import SyntheticDataset, load_split, open_dataset, pack
    from .engine import Detector, TrainConfig, Trainer, load_detector
    from .models import create_model, create_vfm, list_models

_HOMES = {
    "Detector": "engine",
    "SyntheticDataset": "data",
    "TrainConfig": "engine",
    "Trainer": "engine",
    "create_model": "models",
    "create_vfm": "models",
    "list_models": "models",
    "load_detector": "engine",
    "load_split": "data",
    "open_dataset": "data",
    "pack": "data",
}

__all__ = [
    "Detector",
    "SyntheticDataset",
    "TrainConfig",
    "Trainer",
    "create_model",
    "create_vfm",
    "list_models",
    "load_detector",
    "load_split",
    "open_dataset",
    "pack",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
