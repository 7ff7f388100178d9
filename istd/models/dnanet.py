"""DNANet: dense nested attention.

Li et al., "Dense nested attention network for infrared small target detection", IEEE Transactions on Image
Processing 32, 2023.

A triangle of nodes X(i, j), i the level (stride 2ⁱ), j the column; all are residual blocks with attention.
Column 0 is an encoder. Every later node sees all nodes before it on its level, the coarser node of the
previous column and the finer node of its own. The last node of every level goes into the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ._blocks import PoolingEncoder, attention_blocks, init_xavier, resize
from .backbone import Backbone, FeatureInfo, Modulate
from .output import DeepOutput
from .registry import register_model

_CHANNELS = (16, 32, 64, 128, 256)
_LEVELS = len(_CHANNELS)


def _node(level: int, in_chs: int) -> nn.Sequential:
    """Two residual blocks with attention, one at full resolution."""
    return attention_blocks(in_chs, _CHANNELS[level], 1 if level == 0 else 2)


def _inputs(level: int, column: int) -> int:
    """Channels that node (level, column ≥ 1) sees."""
    finer = _CHANNELS[level - 1] if level > 0 else 0
    return column * _CHANNELS[level] + _CHANNELS[level + 1] + finer


class _Column(nn.ModuleList):
    """Column j ≥ 1: its nodes, finest first; it has j fewer than column 0."""

    def __init__(self, column: int) -> None:
        super().__init__(_node(i, _inputs(i, column)) for i in range(_LEVELS - column))

    def forward(self, levels: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Maps of all earlier columns, by level and column → maps of this one, by level."""
        maps: list[Tensor] = []
        for node, level, coarser in zip(self, levels, levels[1:], strict=False):
            seen = [*level, resize(coarser[-1], level[0])]
            if maps:
                seen.append(resize(maps[-1], level[0]))
            maps.append(node(torch.cat(seen, dim=1)))
        return maps


class DNANet(Backbone):
    """DNANet (ResNet-18 blocks). 4.697 M parameters, 13.93 GMACs at 3 × 256 × 256.

    The stage maps are those of column 0; the other columns are the head. The auxiliary maps, all at full
    resolution, are of the nodes (0, 1), (0, 2) and (0, 3).

    Args:
        in_chans, mean, std: see `Backbone`.
        prior: if given, start from predicting this probability everywhere (`Backbone.set_prior`). Without
            it all layers start as in the public code: Glorot normal.
    """

    feature_info: ClassVar[list[FeatureInfo]] = [
        FeatureInfo(chs, 2**i, f"encoder.stages.{i}") for i, chs in enumerate(_CHANNELS)
    ]

    def __init__(self, in_chans: int = 3, *, prior: float | None = None, **kwargs: Any) -> None:
        super().__init__(in_chans, **kwargs)
        finest = _CHANNELS[0]
        widths = (in_chans, *_CHANNELS)
        self.encoder = PoolingEncoder(_node(i, before) for i, (before, _) in enumerate(pairwise(widths)))
        self.columns = nn.ModuleList(_Column(j) for j in range(1, _LEVELS))
        self.lateral = nn.ModuleList(nn.Conv2d(chs, finest, 1) for chs in _CHANNELS[1:])
        self.join = _node(0, _LEVELS * finest)
        self.heads = nn.ModuleList(nn.Conv2d(finest, 1, 1) for _ in self.columns)
        self.apply(init_xavier)
        if prior is not None:
            self.set_prior(prior)

    def encode(self, x: Tensor, modulate: Modulate | None) -> list[Tensor]:
        """Image [B, in_chans, H, W] → maps of 16, 32, 64, 128, 256 channels at strides 1, 2, 4, 8, 16."""
        return self.encoder(x, modulate)

    def decode(self, features: Sequence[Tensor]) -> DeepOutput:
        """Five stage maps → logits [B, 1, H, W], and those of the first three columns."""
        levels = [[feature] for feature in features]  # levels[i][j] is the map of node (i, j)
        for column in self.columns:
            for i, x in enumerate(column(levels)):
                levels[i].append(x)
        full = levels[0]
        wide = [
            resize(lateral(level[-1]), full[0])
            for lateral, level in zip(self.lateral, levels[1:], strict=True)
        ]
        fused = self.join(torch.cat([*reversed(wide), full[-1]], dim=1))
        *aux, logits = (head(x) for head, x in zip(self.heads, [*full[1:-1], fused], strict=True))
        return DeepOutput(logits, tuple(aux))

    def final_layers(self) -> list[nn.Conv2d]:
        """The four heads, the last of which answers."""
        return [head for head in self.heads if isinstance(head, nn.Conv2d)]


@register_model
def dnanet(in_chans: int = 3, **kwargs: Any) -> DNANet:
    """DNANet as published."""
    return DNANet(in_chans, **kwargs)
