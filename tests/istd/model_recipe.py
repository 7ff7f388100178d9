"""Weights and images made by a formula, so that recorded results need no recorded weights."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

GOLDEN = 0.6180339887498949


def fill(name: str, shape: tuple[int, ...]) -> Tensor:
    """A float64 tensor that depends on its name and shape alone.

    Entry j (flat) is u = frac((j + 1)·0.618… + crc32(name)/2³²), in [0, 1), then by kind of tensor:
    convolution and linear weights (u − ½)·√(24/fan_in), running variances and normalisation weights ½ + u,
    everything else (u − ½)/5. `num_batches_tracked` is 0.
    """
    count = int(np.prod(shape, dtype=np.int64))
    u = np.mod(np.arange(1, count + 1) * GOLDEN + zlib.crc32(name.encode()) / 2**32, 1.0).reshape(shape)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if len(shape) > 1 and name.endswith(".weight"):
        u = (u - 0.5) * np.sqrt(24.0 / np.prod(shape[1:]))
    elif name.endswith("running_var") or name.endswith(".weight"):
        u = 0.5 + u
    else:
        u = (u - 0.5) / 5
    return torch.from_numpy(u)


def image(*shape: int) -> Tensor:
    """A float64 image in [0, 1) by the same sequence, [B, C, H, W]."""
    u = np.mod(np.arange(1, int(np.prod(shape)) + 1) * GOLDEN**2 * 7, 1.0)
    return torch.from_numpy(u.reshape(shape))
