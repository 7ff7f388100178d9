"""The paper's public code, imported from a checkout; facts about its functions, none of its lines."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor, nn

from istd.models import FrozenVFM

REFERENCE_PARTS = (
    "train.py",
    "models/teacher.py",
    "utils/losses.py",
    "utils/gn_bilevel.py",
    "utils/mask_update.py",
)
_OPTIONAL = ("transformers", "albumentations", "albumentations.pytorch", "pandas")


def missing_part(folder: Path) -> str:
    """The first file that a checkout should have and this folder lacks; "" if it is one."""
    return next((part for part in REFERENCE_PARTS if not (folder / part).is_file()), "")


class Reference:
    """Its modules, imported when first asked for.

    The foundation model, the data set and its transforms are not used here, so the packages for them need not
    be installed: where one is missing, something stands in for it while the modules are imported.
    """

    def __init__(self, folder: str) -> None:
        sys.path.insert(0, folder)

    def module(self, name: str) -> ModuleType:
        """A module of the checkout, such as "utils.losses"."""
        with _stand_ins():
            module = importlib.import_module(name)
        if "utils.metrics" in sys.modules:
            _let_run_on_numpy(sys.modules["utils.metrics"])
        return module


def _let_run_on_numpy(metrics: ModuleType) -> None:
    """NumPy 2.4 refuses what this module does with histograms of one bin: make their counts scalars."""

    def histogram(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        counts, edges = np.histogram(*args, **kwargs)
        return counts[0], edges

    scalar = ModuleType("numpy")
    scalar.__dict__.update(vars(np))
    scalar.__dict__["histogram"] = histogram
    metrics.__dict__["np"] = scalar


@contextmanager
def _stand_ins() -> Iterator[None]:
    added = []
    for name in _OPTIONAL:
        if name not in sys.modules:
            try:
                importlib.import_module(name)
            except ImportError:
                sys.modules[name] = MagicMock()
                added.append(name)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


class SharedVFM(nn.Module):
    """Our frozen model behind the interface that the reference's modulator calls.

    The reference normalises images while loading, so the model itself is called, not our wrapper.
    """

    def __init__(self, vfm: FrozenVFM) -> None:
        super().__init__()
        self._vfm = (vfm,)  # in a tuple: not a submodule, so it stays in eval mode
        self.feat_dim = vfm.embed_dim

    @torch.no_grad()
    def forward(self, inputs: dict[str, Tensor], return_last_k: int = 1) -> list[Tensor]:
        """The last maps, [B, d, h, w] each, shallowest first."""
        (vfm,) = self._vfm
        count = min(return_last_k, vfm.num_layers)
        return list(
            vfm.model.forward_intermediates(  # type: ignore[operator]
                inputs["pixel_values"], indices=count, norm=vfm.norm, intermediates_only=True
            )
        )
