"""Whether two things that runs and files hold are the same, bit for bit."""

from __future__ import annotations

import numpy as np
import torch


def assert_same(first: object, second: object, where: str = "run") -> None:
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for number, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}[{number}]")
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, where
        assert torch.equal(first, second), where
    elif isinstance(first, np.ndarray):
        assert first.dtype == second.dtype, where
        assert np.array_equal(first, second), where
    else:
        assert first == second, where
