"""From the host to the device without waiting for what the device still has to do."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`.

    A plain copy out of ordinary memory to a GPU waits until all work in its queue is done. Out of pinned
    memory it takes its place in the queue, and torch keeps that memory until the copy has been made.
    """
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def named_device(device: torch.device | str) -> torch.device:
    """`device` as the tensors there name it: "cuda" becomes "cuda:0", say, which torch holds for another."""
    return torch.empty(0, device=device).device
