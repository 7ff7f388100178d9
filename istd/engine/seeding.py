"""Random streams that depend only on where the run stands, so that a resumed run repeats them exactly."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *path: int | str) -> int:
    """A 63-bit seed for one place of a run, such as `derive_seed(seed, "step", epoch, step)`."""
    text = "/".join(map(str, (seed, *path)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_torch(seed: int, *path: int | str) -> None:
    """Seed torch's global generators (all devices) for one place of a run."""
    torch.manual_seed(derive_seed(seed, *path))
