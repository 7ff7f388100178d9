"""RepISD-Net: structural re-parameterisation.

Wu et al., "RepISD-Net: learning efficient infrared small-target detection network via structural
re-parameterization", IEEE Transactions on Geoscience and Remote Sensing 61, 2023.

A small U-Net at strides 1, 2, 4 and a pyramid of pooled maps. In training its 3×3 convolutions are edge
compensation blocks of four branches; for deployment each becomes one convolution (`RepISDNet.fuse`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._batch_parts import current_parts
from ._blocks import PoolingEncoder, init_xavier, resize
from ._joint_norm import JointBatchNorm2d
from .backbone import Backbone, FeatureInfo, Modulate
from .registry import register_model

_CHANNELS = (32, 64, 64)
_WIDTH = 32  # of the decoder
_BINS = (1, 2, 3, 6)  # cells a side of the pooled maps


class EdgeConv(nn.Conv2d):
    """A 3×3 central difference convolution: each neighbour's weight acts on its difference to the centre."""

    def __init__(self, in_chs: int, out_chs: int) -> None:
        super().__init__(in_chs, out_chs, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_chs, H, W] → [B, out_chs, H, W]."""
        return super().forward(x) - F.conv2d(x, self.weight.sum((2, 3), keepdim=True))

    def plain_weight(self) -> Tensor:
        """The weight of the plain convolution that does the same."""
        return self.weight - F.pad(self.weight.sum((2, 3), keepdim=True), (1, 1, 1, 1))


class EdgeCompensation(nn.Module):
    """Edge compensation block (ECB): relu of the sum of four branches, each with batch normalisation.

    The branches are a 3×3 convolution, a central difference one, a 1×1 one, and the identity where the
    channels stay.
    """

    def __init__(self, in_chs: int, out_chs: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(
            nn.Conv2d(in_chs, out_chs, 3, padding=1, bias=False), nn.BatchNorm2d(out_chs)
        )
        self.edge = nn.Sequential(EdgeConv(in_chs, out_chs), nn.BatchNorm2d(out_chs))
        self.point = nn.Sequential(nn.Conv2d(in_chs, out_chs, 1), nn.BatchNorm2d(out_chs))
        self.identity = nn.BatchNorm2d(out_chs) if in_chs == out_chs else None
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_chs, H, W] → [B, out_chs, H, W]."""
        out = self.dense(x) + self.edge(x) + self.point(x)
        if self.identity is not None:
            out = out + self.identity(x)
        return self.act(out)

    @torch.no_grad()
    def fused(self) -> nn.Sequential:
        """The 3×3 convolution and ReLU that this block is in evaluation mode. Summed in float64."""
        branches = [_fold(*self.dense), _fold(*self.edge), _fold(*self.point)]
        if self.identity is not None:
            chs = self.identity.num_features
            eye = torch.eye(chs, dtype=torch.float64, device=self.identity.weight.device)
            branches.append(_scale(eye[:, :, None, None], None, self.identity))
        weight = torch.stack([_as_3x3(weight) for weight, _ in branches]).sum(0)
        bias = torch.stack([bias for _, bias in branches]).sum(0)
        out_chs, in_chs = weight.shape[:2]
        like = next(self.parameters())
        conv = nn.Conv2d(in_chs, out_chs, 3, padding=1, device=like.device, dtype=like.dtype)
        conv.weight.copy_(weight)
        assert conv.bias is not None
        conv.bias.copy_(bias)
        return _deployed(conv)


def _deployed(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.ReLU(inplace=True))


def _fold(conv: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of a convolution followed by batch normalisation in evaluation mode."""
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    conv = copy.deepcopy(conv).double()
    weight = conv.plain_weight() if isinstance(conv, EdgeConv) else conv.weight
    return _scale(weight, conv.bias, norm)


def _scale(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    norm = copy.deepcopy(norm).double()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    mean = norm.running_mean if bias is None else norm.running_mean - bias
    return weight * gain[:, None, None, None], norm.bias - mean * gain


def _as_3x3(weight: Tensor) -> Tensor:
    return F.pad(weight, (1, 1, 1, 1)) if weight.shape[-1] == 1 else weight


def _pair(in_chs: int, mid_chs: int, out_chs: int, deployed: bool) -> nn.Sequential:
    """Two edge compensation blocks, or the two convolutions that they become."""
    widths = ((in_chs, mid_chs), (mid_chs, out_chs))
    if deployed:
        return nn.Sequential(*(_deployed(nn.Conv2d(a, b, 3, padding=1)) for a, b in widths))
    return nn.Sequential(*(EdgeCompensation(a, b) for a, b in widths))


def average_pool(x: Tensor, cells: int) -> Tensor:
    """Adaptive average pooling to `cells` × `cells`, as two matrix products.

    PyTorch's own is neither deterministic on a GPU in its backward pass nor traceable for images of any
    size; this is both, with the same windows: cell i spans ⌊i·n/cells⌋ to ⌈(i + 1)·n/cells⌉.

    Args:
        x: [B, C, H, W].

    Returns:
        [B, C, cells, cells].
    """
    rows, columns = (_windows(x, dim, cells) for dim in (2, 3))
    return rows @ x @ columns.mT


def _windows(x: Tensor, dim: int, cells: int) -> Tensor:
    """The averaging matrix [cells, n] of a dimension of x."""
    n = x.shape[dim]
    at = torch.arange(n, device=x.device)
    cell = torch.arange(cells, device=x.device)[:, None]
    inside = (at >= cell * n // cells) & (at < ((cell + 1) * n + cells - 1) // cells)
    weights = inside.to(x.dtype)
    return weights / weights.sum(1, keepdim=True)


class PooledNorm(JointBatchNorm2d):
    """Batch normalisation that uses its running statistics where there is one value a channel.

    One image pooled to one cell has no variance, and PyTorch refuses to train on it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] → the same shape."""
        if self.training and current_parts().size * x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class PyramidPooling(nn.Module):
    """The map beside its averages over 1, 4, 9 and 36 cells, each through a 1×1 convolution, enlarged."""

    def __init__(self, chs: int) -> None:
        super().__init__()
        each = chs // len(_BINS)
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(chs, each, 1, bias=False), PooledNorm(each), nn.ReLU(inplace=True))
            for _ in _BINS
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, chs, H, W] → [B, 2 · chs, H, W]."""
        pooled = (level(average_pool(x, cells)) for level, cells in zip(self.levels, _BINS, strict=True))
        return torch.cat([x, *(resize(cells, x) for cells in pooled)], dim=1)


class RepISDNet(Backbone):
    """RepISD-Net. At 3 × 256 × 256: 0.559 M parameters and 11.94 GMACs, deployed 0.279 M and 6.40.

    The public code answers with two maps, background and target, each through a sigmoid, and uses the second
    alone; here there is only that one.

    Args:
        in_chans, mean, std: see `Backbone`.
        deployed: build the deployed form, for the weights of a fused network. It is not made to be trained.
        drop_rate: share of the head's channels that are dropped in training. The public code drops 0.1; here
            nothing is dropped by default, so that teacher and student answer from the same channels.
        prior: if given, start from predicting this probability everywhere (`Backbone.set_prior`). Without
            it all layers start as in the public code: Glorot normal.
    """

    feature_info: ClassVar[list[FeatureInfo]] = [
        FeatureInfo(chs, 2**i, f"encoder.stages.{i}") for i, chs in enumerate(_CHANNELS)
    ]

    def __init__(
        self,
        in_chans: int = 3,
        *,
        deployed: bool = False,
        drop_rate: float = 0.0,
        prior: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_chans, **kwargs)
        fine, middle, coarse = _CHANNELS
        self.deployed = deployed
        stem = nn.Sequential(*_plain(in_chans, fine), *_plain(fine, fine))
        self.encoder = PoolingEncoder(
            [stem, _pair(fine, middle, middle, deployed), _pair(middle, coarse, coarse, deployed)]
        )
        self.decoder = nn.ModuleList(  # finest first
            [
                _pair(fine + _WIDTH, (fine + _WIDTH) // 2, _WIDTH, deployed),
                _pair(middle + coarse, (middle + coarse) // 2, _WIDTH, deployed),
            ]
        )
        self.pyramid = PyramidPooling(_WIDTH)
        self.head = nn.Sequential(
            *_plain(2 * _WIDTH, _WIDTH), nn.Dropout2d(drop_rate), nn.Conv2d(_WIDTH, 1, 1)
        )
        self.apply(init_xavier)
        if prior is not None:
            self.set_prior(prior)

    def encode(self, x: Tensor, modulate: Modulate | None) -> list[Tensor]:
        """Image [B, in_chans, H, W] → maps of 32, 64, 64 channels at strides 1, 2, 4."""
        return self.encoder(x, modulate)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Three stage maps → logits [B, 1, H, W]."""
        *skips, x = features
        for skip, block in zip(reversed(skips), reversed(self.decoder), strict=True):
            x = block(torch.cat([skip, resize(x, skip)], dim=1))
        return self.head(self.pyramid(x))

    def fuse(self) -> RepISDNet:
        """A deployed copy, in evaluation mode: every edge compensation block is one convolution.

        It answers as this network does in evaluation mode, up to rounding, and its weights load into
        `create_model("repisdnet", deployed=True)`.
        """
        fused = copy.deepcopy(self).eval()
        for parent in list(fused.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, EdgeCompensation):
                    setattr(parent, name, child.fused())
        fused.deployed = True
        return fused


def _plain(in_chs: int, out_chs: int) -> list[nn.Module]:
    """A 3×3 convolution without bias, batch normalisation, ReLU."""
    conv = nn.Conv2d(in_chs, out_chs, 3, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(out_chs), nn.ReLU(inplace=True)]


@register_model
def repisdnet(in_chans: int = 3, **kwargs: Any) -> RepISDNet:
    """RepISD-Net as published; `deployed=True` for its deployed form."""
    return RepISDNet(in_chans, **kwargs)
