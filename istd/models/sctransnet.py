"""SCTransNet: spatial-channel cross transformer.

Yuan et al., "SCTransNet: spatial-channel cross transformer network for infrared small target detection", IEEE
Transactions on Geoscience and Remote Sensing 62, 2024.

A U-Net at strides 1 … 16. The four finer maps, cut into patches of one common grid, pass through transformer
blocks whose attention is between channels: each scale asks, all scales together answer. The decoder takes the
results as its skip connections, weighted by channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._blocks import BasicBlock, PoolingEncoder, conv_bn, init_average, resize
from .backbone import Backbone, FeatureInfo, Modulate
from .output import DeepOutput
from .registry import register_model

_CHANNELS = (32, 64, 128, 256, 256)
_SCALES = _CHANNELS[:-1]  # those that the transformer sees
_PATCHES = (16, 8, 4, 2)  # of the scales, in their pixels: 16 pixels of the image each
_ALL = sum(_SCALES)
_BLOCKS = 4
_EXPANSION = 2.66
_PUBLISHED_GRID = 16 * 16  # patches of a 256 × 256 image


def _frozen(count: int, *shape: int) -> nn.ParameterList:
    """Parameters that the published network has but never reads.

    Kept, so that its weights load and its size is the published one; frozen, so that nothing trains them.
    """
    return nn.ParameterList(nn.Parameter(torch.zeros(shape), requires_grad=False) for _ in range(count))


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each position."""

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(chs))
        self.bias = nn.Parameter(torch.zeros(chs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, chs, H, W] → [B, chs, H, W]."""
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-5)
        return scaled * self.weight[:, None, None] + self.bias[:, None, None]


class ChannelCrossAttention(nn.Module):
    """Spatial-embedded single-head channel-cross attention (SSCA).

    Queries are the channels of one scale, keys and values those of all scales; each is a vector over the
    patches. The affinities of a scale are normalised as one image before the softmax. Matrix products and
    softmax are written out: PyTorch's fused attention has no second derivative.
    """

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(chs, chs, 1, bias=False),
                nn.Conv2d(chs, chs, 3, padding=1, groups=chs // 2, bias=False),
            )
            for chs in _SCALES
        )
        self.key, self.value = (
            nn.Sequential(
                nn.Conv2d(_ALL, _ALL, 1, bias=False),
                nn.Conv2d(_ALL, _ALL, 3, padding=1, groups=_ALL, bias=False),
            )
            for _ in range(2)
        )
        self.project = nn.ModuleList(nn.Conv2d(chs, chs, 1, bias=False) for chs in _SCALES)
        self.unused = _frozen(16, 1)

    def forward(self, scales: Sequence[Tensor], joined: Tensor) -> list[Tensor]:
        """Four maps [B, Cᵢ, h, w] and their channels together [B, ΣC, h, w] → four maps [B, Cᵢ, h, w]."""
        grid = joined.shape[-2:]
        key = F.normalize(self.key(joined).flatten(2), dim=-1)
        value = self.value(joined).flatten(2)
        answers = []
        for query, project, x in zip(self.queries, self.project, scales, strict=True):
            affinity = F.normalize(query(x).flatten(2), dim=-1) @ key.mT / math.sqrt(_ALL)
            attention = _standardise(affinity).softmax(-1)
            answers.append(project((attention @ value).unflatten(2, grid)))
        return answers


def _standardise(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the last two dimensions."""
    centred = x - x.mean((1, 2), keepdim=True)
    return centred / torch.sqrt(centred.square().mean((1, 2), keepdim=True) + 1e-5)


class FeedForward(nn.Module):
    """Complementary feed-forward network (CFN): halves of the channels through 3×3 and 5×5, then weighted.

    The weights of the channels come from a convolution over neighbouring channels' means (ECA, CVPR 2020).
    """

    def __init__(self, chs: int) -> None:
        super().__init__()
        hidden = int(chs * _EXPANSION)
        self.expand = nn.Conv2d(chs, 2 * hidden, 1, bias=False)
        self.small, self.large = (
            nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden, bias=False)
            for kernel in (3, 5)
        )
        self.project = nn.Conv2d(2 * hidden, chs, 1, bias=False)
        self.neighbours = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, chs, h, w] → [B, chs, h, w]."""
        small, large = self.expand(x).chunk(2, dim=1)
        x = self.project(torch.cat([self.small(small).relu(), self.large(large).relu()], dim=1))
        weights = torch.sigmoid(self.neighbours(x.mean((2, 3))[:, None]))
        return x * weights[:, 0, :, None, None]


class CrossBlock(nn.Module):
    """Spatial-channel cross transformer block (SCTB): attention and feed-forward, each around an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ChannelNorm(chs) for chs in _SCALES)
        self.joint_norm = ChannelNorm(_ALL)
        self.attention = ChannelCrossAttention()
        self.forward_norms = nn.ModuleList(ChannelNorm(chs) for chs in _SCALES)
        self.feed_forwards = nn.ModuleList(FeedForward(chs) for chs in _SCALES)

    def forward(self, scales: Sequence[Tensor]) -> list[Tensor]:
        """Four maps [B, Cᵢ, h, w] → four of the same shapes."""
        normed = [norm(x) for norm, x in zip(self.norms, scales, strict=True)]
        answers = self.attention(normed, self.joint_norm(torch.cat(list(scales), dim=1)))
        scales = [x + answer for x, answer in zip(scales, answers, strict=True)]
        return [
            x + feed_forward(norm(x))
            for x, norm, feed_forward in zip(scales, self.forward_norms, self.feed_forwards, strict=True)
        ]


class CrossTransformer(nn.Module):
    """Patches of every scale through the blocks and back to the scale's size."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.ModuleList(
            nn.Conv2d(chs, chs, patch, stride=patch) for chs, patch in zip(_SCALES, _PATCHES, strict=True)
        )
        self.blocks = nn.ModuleList(CrossBlock() for _ in range(_BLOCKS))
        self.norms = nn.ModuleList(ChannelNorm(chs) for chs in _SCALES)
        self.restore = nn.ModuleList(
            nn.Sequential(nn.Conv2d(chs, chs, 1), nn.BatchNorm2d(chs), nn.ReLU(inplace=True))
            for chs in _SCALES
        )
        self.unused = nn.ParameterList(
            table for chs in _SCALES for table in _frozen(1, 1, _PUBLISHED_GRID, chs)
        )

    def forward(self, scales: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, Cᵢ, H/2ⁱ, W/2ⁱ] for i = 0 … 3 → what to add to them, of the same shapes."""
        tokens = [embed(x) for embed, x in zip(self.embed, scales, strict=True)]
        for block in self.blocks:
            tokens = block(tokens)
        return [
            restore(resize(norm(x), scale, align_corners=False))
            for restore, norm, x, scale in zip(self.restore, self.norms, tokens, scales, strict=True)
        ]


class UpBlock(nn.Module):
    """A decoder level: the skip's channels weighted by both maps' means, then two convolutions of both."""

    def __init__(self, chs: int, out_chs: int) -> None:
        super().__init__()
        self.skip, self.coarse = nn.Linear(chs, chs), nn.Linear(chs, chs)
        self.body = nn.Sequential(
            *conv_bn(2 * chs, out_chs),
            nn.ReLU(inplace=True),
            *conv_bn(out_chs, out_chs),
            nn.ReLU(inplace=True),
        )

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """[B, chs, H/2, W/2] and [B, chs, H, W] → [B, out_chs, H, W]."""
        coarse = F.interpolate(coarse, size=skip.shape[-2:], mode="nearest")
        weights = torch.sigmoid((self.skip(skip.mean((2, 3))) + self.coarse(coarse.mean((2, 3)))) / 2)
        skip = (skip * weights[:, :, None, None]).relu()
        return self.body(torch.cat([skip, coarse], dim=1))


def init_published(module: nn.Module) -> None:
    """He normal over fan-in; batch normalisation's weights around 1 (for `module.apply`)."""
    if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


class SCTransNet(Backbone):
    """SCTransNet. 11.327 M parameters, 10.54 GMACs at 3 × 256 × 256.

    0.123 M of the parameters are position embeddings and mixing weights that the published network never
    reads; they are frozen. The auxiliary maps, all at full resolution, are those of strides 16, 8, 4, 2 and
    a mixture of these and the answer.

    Args:
        in_chans, mean, std: see `Backbone`.
        prior: if given, start from predicting this probability everywhere (`Backbone.set_prior`). Without
            it all layers start as in the public code: He normal over fan-in.
    """

    feature_info: ClassVar[list[FeatureInfo]] = [
        FeatureInfo(chs, 2**i, f"encoder.stages.{i}") for i, chs in enumerate(_CHANNELS)
    ]

    def __init__(self, in_chans: int = 3, *, prior: float | None = None, **kwargs: Any) -> None:
        super().__init__(in_chans, **kwargs)
        widths = (in_chans, *_CHANNELS)
        self.encoder = PoolingEncoder(
            nn.Sequential(BasicBlock(before, chs, act=nn.LeakyReLU(inplace=True)))
            for before, chs in pairwise(widths)
        )
        self.transformer = CrossTransformer()
        outputs = (_CHANNELS[0], *_SCALES[:-1])  # of the decoder's levels: 32, 32, 64, 128
        self.decoder = nn.ModuleList(UpBlock(chs, out) for chs, out in zip(_SCALES, outputs, strict=True))
        self.heads = nn.ModuleList(  # finest first; the first answers
            nn.Conv2d(chs, 1, 1) for chs in (*outputs, _CHANNELS[-1])
        )
        self.mix = nn.Conv2d(len(self.heads), 1, 1)
        self.apply(init_published)
        if prior is not None:
            self.set_prior(prior)

    def encode(self, x: Tensor, modulate: Modulate | None) -> list[Tensor]:
        """Image [B, in_chans, H, W] → maps of 32, 64, 128, 256, 256 channels at strides 1, 2, 4, 8, 16."""
        return self.encoder(x, modulate)

    def decode(self, features: Sequence[Tensor]) -> DeepOutput:
        """Five stage maps → logits [B, 1, H, W], four of coarser levels, coarsest first, and the mixture."""
        *skips, x = features
        added = self.transformer(skips)
        levels = [x]
        for block, skip, more in zip(reversed(self.decoder), reversed(skips), reversed(added), strict=True):
            x = block(x, more + 2 * skip)  # one identity in the transformer, one around it
            levels.insert(0, x)
        logits, *coarser = (head(level) for head, level in zip(self.heads, levels, strict=True))
        enlarged = [resize(level, logits) for level in coarser]
        mixture = self.mix(torch.cat([*enlarged, logits], dim=1))
        return DeepOutput(logits, (*reversed(enlarged), mixture))

    def final_layers(self) -> list[nn.Conv2d]:
        """The five heads. The layer that mixes their maps has no prior of its own."""
        return [head for head in self.heads if isinstance(head, nn.Conv2d)]

    def set_prior(self, probability: float) -> None:
        """See `Backbone`. The mixture starts as the mean of the five maps, so it has their prior."""
        super().set_prior(probability)
        init_average(self.mix)


@register_model
def sctransnet(in_chans: int = 3, **kwargs: Any) -> SCTransNet:
    """SCTransNet as published."""
    return SCTransNet(in_chans, **kwargs)
