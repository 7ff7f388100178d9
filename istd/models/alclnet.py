"""ALCL-Net: attention-based local contrast learning.

Yu et al., "Pay attention to local contrast learning networks for infrared small target detection", IEEE
Geoscience and Remote Sensing Letters 19, 2022.

A residual encoder at strides 1 … 16; a local contrast block on every stage; from coarse to fine, each finer
map decides by an attention gate how much of the coarser one it takes in (SBAM).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn

from ._blocks import ResidualEncoder, fuse_upwards, init_kaiming, pointwise_head
from ._upsampling import DoubleSize
from .backbone import Backbone, FeatureInfo, Modulate
from .registry import register_model

_CHANNELS = (16, 32, 64, 128, 256)


class LocalContrast(nn.Sequential):
    """Local contrast learning (LCL): 1×1, then 3×3 convolution, each with ReLU; no batch normalisation."""

    def __init__(self, chs: int) -> None:
        super().__init__(
            nn.Conv2d(chs, chs, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(chs, chs, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.apply(init_kaiming)


class BilinearAttention(nn.Module):
    """Simplified bilinear interpolation attention module (SBAM): low + up(high) · sigmoid(gate(low))."""

    def __init__(self, high_chs: int, low_chs: int) -> None:
        super().__init__()
        self.high = nn.Sequential(
            DoubleSize(),
            nn.Conv2d(high_chs, low_chs, 1),
            nn.BatchNorm2d(low_chs),
            nn.ReLU(inplace=True),
        )
        self.gate = nn.Sequential(nn.Conv2d(low_chs, low_chs, 1), nn.BatchNorm2d(low_chs), nn.Sigmoid())
        self.apply(init_kaiming)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """Coarse [B, high_chs, H/2, W/2] and fine [B, low_chs, H, W] → [B, low_chs, H, W]."""
        return low + self.high(high) * self.gate(low)


class ALCLNet(Backbone):
    """ALCL-Net. 5.668 M parameters, 6.67 GMACs at 3 × 256 × 256.

    Args:
        in_chans, mean, std: see `Backbone`.
        prior: if given, start from predicting this probability everywhere (`Backbone.set_prior`). Without
            it the last layer starts as in the public code: He normal, zero bias.
    """

    feature_info: ClassVar[list[FeatureInfo]] = [
        FeatureInfo(chs, 2**i, f"encoder.stages.{i}") for i, chs in enumerate(_CHANNELS)
    ]

    def __init__(self, in_chans: int = 3, *, prior: float | None = None, **kwargs: Any) -> None:
        super().__init__(in_chans, **kwargs)
        self.encoder = ResidualEncoder(in_chans, _CHANNELS)
        self.contrast = nn.ModuleList(LocalContrast(chs) for chs in _CHANNELS)
        self.attention = nn.ModuleList(BilinearAttention(high, low) for low, high in pairwise(_CHANNELS))
        self.head = pointwise_head(_CHANNELS[0])
        if prior is not None:
            self.set_prior(prior)

    def encode(self, x: Tensor, modulate: Modulate | None) -> list[Tensor]:
        """Image [B, in_chans, H, W] → maps of 16, 32, 64, 128, 256 channels at strides 1, 2, 4, 8, 16."""
        return self.encoder(x, modulate)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Five stage maps → logits [B, 1, H, W]."""
        levels = [contrast(feature) for contrast, feature in zip(self.contrast, features, strict=True)]
        return self.head(fuse_upwards(self.attention, levels))


@register_model
def alclnet(in_chans: int = 3, **kwargs: Any) -> ALCLNet:
    """ALCL-Net as published."""
    return ALCLNet(in_chans, **kwargs)
