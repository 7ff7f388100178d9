"""Bilinear interpolation, also where kernels have to be repeatable on a GPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def bilinear(x: Tensor, size: tuple[int, ...], *, align_corners: bool) -> Tensor:
    """x [B, C, h, w] at another height and width.

    With deterministic algorithms torch interpolates on CUDA by gathering every corner, and differentiates
    that by sorting; products with matrices are repeatable by themselves.
    """
    if x.is_cuda and torch.are_deterministic_algorithms_enabled():
        return bilinear_by_products(x, size, align_corners=align_corners)
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


class DoubleSize(nn.Module):
    """x [B, C, h, w] at twice its height and width, by `bilinear` with aligned corners."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] → [B, C, 2h, 2w]."""
        height, width = x.shape[-2:]
        return bilinear(x, (2 * height, 2 * width), align_corners=True)


def bilinear_by_products(x: Tensor, size: tuple[int, ...], *, align_corners: bool) -> Tensor:
    """The same as two matrix products, one an axis, in the channels-last layout.

    Its derivatives of any order are products too. Under autocast the weights are rounded with the rest.
    """
    down, across = (
        _weights(given, wanted, align_corners, x) for given, wanted in zip(x.shape[2:], size, strict=True)
    )
    wide = across @ x.permute(0, 2, 3, 1)  # [W, w] · [B, h, w, C]
    tall = down @ wide.flatten(2)  # [H, h] · [B, h, W·C]
    return tall.unflatten(2, wide.shape[2:]).permute(0, 3, 1, 2)


def _weights(given: int, wanted: int, align_corners: bool, like: Tensor) -> Tensor:
    """[wanted, given]: how much each given sample counts for each wanted one, a hat of width 1 around it."""
    precision = torch.float64 if like.dtype == torch.float64 else torch.float32
    samples = torch.arange(max(given, wanted), dtype=precision, device=like.device)
    if align_corners:
        places = samples[:wanted] * ((given - 1) / (wanted - 1) if wanted > 1 else 0.0)
    else:
        places = ((samples[:wanted] + 0.5) * (given / wanted) - 0.5).clamp(0, given - 1)
    return (1 - (places[:, None] - samples[:given]).abs()).clamp_min(0).to(like.dtype)
