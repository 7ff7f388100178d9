"""The baseline to beat: a small U-Net on static labels. Known to this benchmark only.

Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, with batch normalisation, at an eighth of its width and one
level less: 0.12 M parameters. It is a backbone like any other, so loader, labels, losses, selection and
evaluation are those of all methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from istd.models import Backbone, list_models, register_model
from istd.models.backbone import FeatureInfo, Modulate

NAME = "smallunet"
_CHANNELS = (8, 16, 32, 64)


def _double_conv(in_chs: int, out_chs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for chs in (in_chs, out_chs):
        layers += [
            nn.Conv2d(chs, out_chs, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_chs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class SmallUNet(Backbone):
    """Four levels of two 3×3 convolutions, max-pooling down, bilinear interpolation up.

    Args:
        in_chans, mean, std: see `Backbone`.
        prior: if given, start from predicting this probability everywhere (`Backbone.set_prior`).
    """

    feature_info: ClassVar[list[FeatureInfo]] = [
        FeatureInfo(chs, 2**i, f"down.{i}") for i, chs in enumerate(_CHANNELS)
    ]

    def __init__(self, in_chans: int = 3, *, prior: float | None = None, **kwargs: Any) -> None:
        super().__init__(in_chans, **kwargs)
        self.down = nn.ModuleList(
            _double_conv(before, chs) for before, chs in zip((in_chans, *_CHANNELS), _CHANNELS, strict=False)
        )
        self.up = nn.ModuleList(_double_conv(fine + coarse, fine) for fine, coarse in pairwise(_CHANNELS))
        self.head = nn.Sequential(nn.Conv2d(_CHANNELS[0], 1, 1))
        if prior is not None:
            self.set_prior(prior)

    def encode(self, x: Tensor, modulate: Modulate | None) -> list[Tensor]:
        """Image [B, in_chans, H, W] → maps of 8, 16, 32, 64 channels at strides 1, 2, 4, 8."""
        maps = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            x = x if modulate is None else modulate(level, x)
            maps.append(x)
        return maps

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Four stage maps → logits [B, 1, H, W]."""
        x = features[-1]
        for block, finer in zip(reversed(self.up), reversed(features[:-1]), strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([finer, x], dim=1))
        return self.head(x)


def register() -> None:
    """Make the name known in this process."""
    if NAME not in list_models():

        def smallunet(in_chans: int = 3, **kwargs: Any) -> SmallUNet:
            return SmallUNet(in_chans, **kwargs)

        register_model(smallunet)
