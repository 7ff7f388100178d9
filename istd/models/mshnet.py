"""MSHNet: a U-Net with a head at every scale.

Liu et al., "Infrared small target detection with scale and location sensitivity", CVPR 2024.

An encoder of residual attention blocks at strides 1 … 16 and a decoder back to stride 1. Each of the four
scales of the decoder predicts a map; a 3×3 convolution of the four, enlarged, is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ._blocks import PoolingEncoder, attention_blocks, init_average, resize
from .backbone import Backbone, FeatureInfo, Modulate
from .output import DeepOutput
from .registry import register_model

_CHANNELS = (16, 32, 64, 128, 256)


def _blocks(level: int) -> int:
    """Residual blocks of a level: two, but one at full resolution."""
    return 1 if level == 0 else 2


class MSHNet(Backbone):
    """MSHNet. 4.066 M parameters, 6.00 GMACs at 3 × 256 × 256.

    The auxiliary maps are those of the four scales, at strides 1, 2, 4, 8. (The public code leaves them out
    during its first five epochs and answers with the finest alone; here they are always there.)

    Args:
        in_chans, mean, std: see `Backbone`.
        prior: if given, start from predicting this probability everywhere (`Backbone.set_prior`). Without
            it all layers start as in the public code: PyTorch's default.
    """

    feature_info: ClassVar[list[FeatureInfo]] = [
        FeatureInfo(chs, 2**i, f"encoder.stages.{i}") for i, chs in enumerate(_CHANNELS)
    ]

    def __init__(self, in_chans: int = 3, *, prior: float | None = None, **kwargs: Any) -> None:
        super().__init__(in_chans, **kwargs)
        first = _CHANNELS[0]
        stages = [nn.Sequential(nn.Conv2d(in_chans, first, 1), *attention_blocks(first, first, 1))]
        for i, (before, chs) in enumerate(pairwise(_CHANNELS), start=1):
            stages.append(attention_blocks(before, chs, _blocks(i)))
        self.encoder = PoolingEncoder(stages)
        self.decoder = nn.ModuleList(
            attention_blocks(fine + coarse, fine, _blocks(i))
            for i, (fine, coarse) in enumerate(pairwise(_CHANNELS))
        )
        self.heads = nn.ModuleList(nn.Conv2d(chs, 1, 1) for chs in _CHANNELS[:-1])
        self.join = nn.Conv2d(len(self.heads), 1, 3, padding=1)
        if prior is not None:
            self.set_prior(prior)

    def encode(self, x: Tensor, modulate: Modulate | None) -> list[Tensor]:
        """Image [B, in_chans, H, W] → maps of 16, 32, 64, 128, 256 channels at strides 1, 2, 4, 8, 16."""
        return self.encoder(x, modulate)

    def decode(self, features: Sequence[Tensor]) -> DeepOutput:
        """Five stage maps → logits [B, 1, H, W], and those of the four scales, finest first."""
        *skips, x = features
        maps: list[Tensor] = []
        for skip, decoder, head in zip(
            reversed(skips), reversed(self.decoder), reversed(self.heads), strict=True
        ):
            x = decoder(torch.cat([skip, resize(x, skip)], dim=1))
            maps.insert(0, head(x))
        finest = maps[0]
        enlarged = [finest, *(resize(scale, finest) for scale in maps[1:])]
        return DeepOutput(self.join(torch.cat(enlarged, dim=1)), tuple(maps))

    def final_layers(self) -> list[nn.Conv2d]:
        """The four heads. The layer that joins their maps has no prior of its own."""
        return [head for head in self.heads if isinstance(head, nn.Conv2d)]

    def set_prior(self, probability: float) -> None:
        """See `Backbone`. The answer starts as the mean of the four maps, so it has their prior."""
        super().set_prior(probability)
        init_average(self.join)


@register_model
def mshnet(in_chans: int = 3, **kwargs: Any) -> MSHNet:
    """MSHNet as published."""
    return MSHNet(in_chans, **kwargs)
