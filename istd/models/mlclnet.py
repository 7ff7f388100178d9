"""MLCL-Net: multiscale local contrast learning.

Yu et al., "Infrared small target detection based on multiscale local contrast learning networks", Infrared
Physics & Technology 123, 2022.

A residual encoder at strides 1, 2, 4; at each stage a block compares every pixel with its surroundings at
three radii (3×3 convolutions of dilation 1, 3, 5); the results are summed from coarse to fine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ._blocks import ResidualEncoder, init_kaiming, resize
from .backbone import Backbone, FeatureInfo, Modulate
from .registry import register_model

_CHANNELS = (16, 32, 64)
_WIDTH = 64  # of the fused map


class MultiScaleLocalContrast(nn.Module):
    """Multiscale local contrast learning (MLCL): three branches, concatenated and mixed by 1×1.

    Branch j first gathers with a kernel of 1, 3, 5 pixels, then compares with a 3×3 kernel of dilation
    1, 3, 5. There is no batch normalisation: it would remove the contrast that the block measures.
    """

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(chs, chs, gather, padding=gather // 2),
                nn.ReLU(inplace=True),
                nn.Conv2d(chs, chs, 3, padding=dilation, dilation=dilation),
            )
            for gather, dilation in ((1, 1), (3, 3), (5, 5))
        )
        self.fuse = nn.Conv2d(3 * chs, chs, 1)
        self.apply(init_kaiming)

    def forward(self, x: Tensor) -> Tensor:
        """[B, chs, H, W] → [B, chs, H, W]."""
        # One activation of all branches: differentiated one by one, each would meet a slice of a gradient
        # whose channels lie apart, for which the kernel in half precision is ten times slower on a CPU.
        return self.fuse(torch.cat([branch(x) for branch in self.branches], dim=1).relu_())


class MLCLNet(Backbone):
    """MLCL-Net. 0.657 M parameters, 7.01 GMACs at 3 × 256 × 256.

    Args:
        in_chans, mean, std: see `Backbone`.
        prior: if given, start from predicting this probability everywhere (`Backbone.set_prior`). Without
            it the last layer starts as in the public code: PyTorch's default, predictions around 0.5.
    """

    feature_info: ClassVar[list[FeatureInfo]] = [
        FeatureInfo(chs, 2**i, f"encoder.stages.{i}") for i, chs in enumerate(_CHANNELS)
    ]

    def __init__(self, in_chans: int = 3, *, prior: float | None = None, **kwargs: Any) -> None:
        super().__init__(in_chans, **kwargs)
        self.encoder = ResidualEncoder(in_chans, _CHANNELS)
        self.contrast = nn.ModuleList(MultiScaleLocalContrast(chs) for chs in _CHANNELS)
        # These, and the head, keep PyTorch's default initialisation in the public code too.
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(chs, _WIDTH, 1), nn.ReLU(inplace=True)) for chs in _CHANNELS
        )
        self.head = nn.Sequential(
            nn.Conv2d(_WIDTH, _WIDTH, 1), nn.ReLU(inplace=True), nn.Conv2d(_WIDTH, 1, 1)
        )
        if prior is not None:
            self.set_prior(prior)

    def encode(self, x: Tensor, modulate: Modulate | None) -> list[Tensor]:
        """Image [B, in_chans, H, W] → maps of 16, 32, 64 channels at strides 1, 2, 4."""
        return self.encoder(x, modulate)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Three stage maps → logits [B, 1, H, W]."""
        levels = [
            lateral(contrast(feature))
            for lateral, contrast, feature in zip(self.lateral, self.contrast, features, strict=True)
        ]
        fused = levels.pop()
        while levels:
            finer = levels.pop()
            fused = resize(fused, finer) + finer
        return self.head(fused)


@register_model
def mlclnet(in_chans: int = 3, **kwargs: Any) -> MLCLNet:
    """MLCL-Net as published (LCL radii 1, 3, 5)."""
    return MLCLNet(in_chans, **kwargs)
