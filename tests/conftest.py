"""Fixtures that every test may use: the optional real data and golden cases beside a checkout."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

# Tests run one a core: the processes that they start shall not take all cores each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_BESIDE = Path(__file__).resolve().parents[1].parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what is slow, so that no worker is left with it at the end.

    What is slow or runs many random cases is not traced for coverage, which would take half as long again: it
    runs lines that others run too.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        random = isinstance(item, pytest.Function) and getattr(item.obj, "is_hypothesis_test", False)
        if random or item.get_closest_marker("slow"):
            item.add_marker("no_cover")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Run small tensors on one thread: faster under parallel test workers, and the order of sums is fixed."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """A function: name of a golden case (without .npz) → its arrays. Skips where they are absent."""
    folder = Path(os.environ.get("ISTD_GOLDEN", _BESIDE / "golden"))

    def load(name: str) -> dict[str, Any]:
        path = folder / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"golden case {path} is absent (set ISTD_GOLDEN to its folder)")
        with np.load(path, allow_pickle=False) as data:
            return {key: data[key] for key in data.files}

    return load


@pytest.fixture(scope="session")
def sirst_root() -> Path:
    """The folder of the real SIRST v1 images. Skips where it is absent."""
    root = Path(os.environ.get("ISTD_SIRST", _BESIDE / "data" / "sirst"))
    if not (root / "images").is_dir():
        pytest.skip(f"SIRST v1 is absent at {root} (set ISTD_SIRST to its folder)")
    return root
