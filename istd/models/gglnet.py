"""GGL-Net: gradient-guided learning.

Zhao et al., "Gradient-guided learning network for infrared small target detection", IEEE Geoscience and
Remote Sensing Letters 20, 2023.

A residual encoder at strides 1 … 16 with squeeze-and-excitation. Every stage also sees the image's gradient
magnitude, max-pooled to its size (gradient supplement). A local contrast block on every stage; from coarse to
fine, each of two neighbouring maps decides how much of the other passes (two-way guidance).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._blocks import (
    ChannelAttention,
    DownBlock,
    ResidualBlock,
    conv_bn,
    fuse_upwards,
    init_kaiming,
    pointwise_head,
)
from ._upsampling import DoubleSize
from .alclnet import LocalContrast
from .backbone import Backbone, FeatureInfo, Modulate
from .registry import register_model

_CHANNELS = (16, 32, 64, 128, 256)


def gradient_magnitude(x: Tensor) -> Tensor:
    """√(∂ₓ² + ∂ᵧ²) of each channel by central differences, with zeros around the image, as published.

    A vector norm, because its derivative at 0 is taken as 0 where a root's is infinite.

    Args:
        x: [B, C, H, W].

    Returns:
        [B, C, H, W].
    """
    padded = F.pad(x, (1, 1, 1, 1))
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    return 0.5 * torch.linalg.vector_norm(torch.stack((across, down)), dim=0)


class SqueezeExcitation(nn.Module):
    """x · σ(two linear layers of the channel means) (Hu et al., CVPR 2018)."""

    def __init__(self, chs: int, reduction: int = 4) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(chs, chs // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(chs // reduction, chs, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, chs, H, W] → [B, chs, H, W]."""
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


def _excited(in_chs: int, out_chs: int) -> list[nn.Module]:
    """Two 3×3 convolutions with batch normalisation, squeeze-and-excitation between them."""
    return [
        *conv_bn(in_chs, out_chs),
        nn.ReLU(inplace=True),
        SqueezeExcitation(out_chs),
        *conv_bn(out_chs, out_chs),
    ]


class ExcitedBlock(nn.Module):
    """A residual block with squeeze-and-excitation between its convolutions."""

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_excited(chs, chs))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, chs, H, W] → [B, chs, H, W]."""
        return self.act(self.body(x) + x)


class GradientSupplement(nn.Module):
    """Gradient supplementary module (GSM): a residual of a stage map and the gradient image."""

    def __init__(self, in_chans: int, chs: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(*_excited(in_chans, chs), nn.ReLU(inplace=True))
        self.body = nn.Sequential(*_excited(2 * chs, chs))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Stage map [B, chs, H, W] and gradient image [B, in_chans, H, W] → [B, chs, H, W]."""
        return self.act(self.body(torch.cat([x, self.expand(gradient)], dim=1)) + x)


class GradientEncoder(nn.Module):
    """Stem and stages of three residual blocks, each followed by a gradient supplement."""

    def __init__(self, in_chans: int, channels: Sequence[int]) -> None:
        super().__init__()
        first = channels[0]
        self.stem = nn.Sequential(
            *conv_bn(in_chans, first), nn.ReLU(inplace=True), *conv_bn(first, first), nn.ReLU(inplace=True)
        )
        self.stages = nn.ModuleList()
        for i, chs in enumerate(channels):
            entry = ResidualBlock(chs) if i == 0 else DownBlock(channels[i - 1], chs)
            self.stages.append(nn.Sequential(entry, ExcitedBlock(chs), ExcitedBlock(chs)))
        self.supplements = nn.ModuleList(GradientSupplement(in_chans, chs) for chs in channels)
        self.pool = nn.MaxPool2d(2)
        self.apply(init_kaiming)

    def forward(self, x: Tensor, modulate: Modulate | None = None) -> list[Tensor]:
        """[B, in_chans, H, W] → stage i's map [B, channels[i], H/2ⁱ, W/2ⁱ] for every i."""
        features: list[Tensor] = []
        gradient = gradient_magnitude(x)
        x = self.stem(x)
        for i, (stage, supplement) in enumerate(zip(self.stages, self.supplements, strict=True)):
            if i > 0:
                gradient = self.pool(gradient)
            x = supplement(stage(x), gradient)
            if modulate is not None:
                x = modulate(i, x)
            features.append(x)
        return features


class PixelGate(nn.Module):
    """σ of a 7×7 convolution of the maximum and the mean over channels: a weight for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, 1, H, W]."""
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
        return torch.sigmoid(self.conv(pooled))


class TwoWayGuidance(nn.Module):
    """Two-way guidance fusion module (TGFM): low · channels(high) + high · pixels(low)."""

    def __init__(self, high_chs: int, low_chs: int) -> None:
        super().__init__()
        self.high = nn.Sequential(
            DoubleSize(),
            nn.Conv2d(high_chs, low_chs, 1),
            nn.BatchNorm2d(low_chs),
            nn.ReLU(inplace=True),
        )
        self.high.apply(init_kaiming)
        # Both gates keep PyTorch's default initialisation in the public code too.
        self.channels = ChannelAttention(low_chs, reduction=8)
        self.pixels = PixelGate()

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """Coarse [B, high_chs, H/2, W/2] and fine [B, low_chs, H, W] → [B, low_chs, H, W]."""
        high = self.high(high)
        return low * self.channels(high) + high * self.pixels(low)


class GGLNet(Backbone):
    """GGL-Net. 8.988 M parameters, 9.69 GMACs at 3 × 256 × 256.

    Args:
        in_chans, mean, std: see `Backbone`. The gradient image is that of the normalised image.
        prior: if given, start from predicting this probability everywhere (`Backbone.set_prior`). Without
            it the last layer starts as in the public code: He normal, zero bias.
    """

    feature_info: ClassVar[list[FeatureInfo]] = [
        FeatureInfo(chs, 2**i, f"encoder.supplements.{i}") for i, chs in enumerate(_CHANNELS)
    ]

    def __init__(self, in_chans: int = 3, *, prior: float | None = None, **kwargs: Any) -> None:
        super().__init__(in_chans, **kwargs)
        self.encoder = GradientEncoder(in_chans, _CHANNELS)
        self.contrast = nn.ModuleList(LocalContrast(chs) for chs in _CHANNELS)
        self.guidance = nn.ModuleList(TwoWayGuidance(high, low) for low, high in pairwise(_CHANNELS))
        self.head = pointwise_head(_CHANNELS[0])
        if prior is not None:
            self.set_prior(prior)

    def encode(self, x: Tensor, modulate: Modulate | None) -> list[Tensor]:
        """Image [B, in_chans, H, W] → maps of 16, 32, 64, 128, 256 channels at strides 1, 2, 4, 8, 16."""
        return self.encoder(x, modulate)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Five stage maps → logits [B, 1, H, W]."""
        levels = [contrast(feature) for contrast, feature in zip(self.contrast, features, strict=True)]
        return self.head(fuse_upwards(self.guidance, levels))


@register_model
def gglnet(in_chans: int = 3, **kwargs: Any) -> GGLNet:
    """GGL-Net as published."""
    return GGLNet(in_chans, **kwargs)
