"""Blocks that several backbones share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ._upsampling import bilinear
from .backbone import Modulate


def init_kaiming(module: nn.Module) -> None:
    """He normal over fan-out, zero biases: MLCL-Net, ALCL-Net and GGL-Net (for `module.apply`)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def pointwise_head(chs: int) -> nn.Sequential:
    """Two 1×1 convolutions from `chs` channels to one logit: ALCL-Net and GGL-Net."""
    head = nn.Sequential(nn.Conv2d(chs, chs, 1), nn.ReLU(inplace=True), nn.Conv2d(chs, 1, 1))
    return head.apply(init_kaiming)


def fuse_upwards(fusions: nn.ModuleList, levels: Sequence[Tensor]) -> Tensor:
    """Take the coarsest map up through every finer one: ALCL-Net and GGL-Net.

    Args:
        fusions: one for each pair of neighbours, finest first, each called with (coarser, finer).
        levels: the maps, finest first.
    """
    fused = levels[-1]
    for fusion, level in zip(reversed(fusions), reversed(levels[:-1]), strict=True):
        fused = fusion(fused, level)
    return fused


def init_xavier(module: nn.Module) -> None:
    """Glorot normal weights, biases as they are: DNANet and RepISD-Net (for `module.apply`)."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_normal_(module.weight)


def init_average(fuse: nn.Conv2d) -> None:
    """Let a convolution of several maps to one start as their mean, pixel by pixel."""
    nn.init.zeros_(fuse.weight)
    rows, columns = fuse.kernel_size
    with torch.no_grad():
        fuse.weight[:, :, rows // 2, columns // 2] = 1.0 / fuse.in_channels
    if fuse.bias is not None:
        nn.init.zeros_(fuse.bias)


def resize(x: Tensor, like: Tensor, *, align_corners: bool = True) -> Tensor:
    """x [B, C, h, w] at the height and width of `like`, bilinear.

    The size is taken from a tensor, not from a factor, so that a traced network takes images of any size.
    """
    return bilinear(x, like.shape[-2:], align_corners=align_corners)


def conv_bn(in_chs: int, out_chs: int, *, stride: int = 1) -> list[nn.Module]:
    """A 3×3 convolution (with bias, as published) and its batch normalisation."""
    return [nn.Conv2d(in_chs, out_chs, 3, stride=stride, padding=1), nn.BatchNorm2d(out_chs)]


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions around an identity: relu(x + body(x)), same shape out as in."""

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv_bn(chs, chs), nn.ReLU(inplace=True), *conv_bn(chs, chs))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, chs, H, W] → [B, chs, H, W]."""
        return self.act(self.body(x) + x)


class DownBlock(nn.Module):
    """A residual block that halves the resolution: max-pooling inside the body, a strided shortcut."""

    def __init__(self, in_chs: int, out_chs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn(in_chs, out_chs), nn.ReLU(inplace=True), nn.MaxPool2d(2), *conv_bn(out_chs, out_chs)
        )
        self.shortcut = nn.Sequential(*conv_bn(in_chs, out_chs, stride=2), nn.ReLU(inplace=True))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_chs, H, W] → [B, out_chs, H/2, W/2], H and W even."""
        return self.act(self.body(x) + self.shortcut(x))


class ResidualEncoder(nn.Module):
    """A stem of two convolutions, then stages of three residual blocks; each but the first halves the size.

    Args:
        in_chans: channels of the image.
        channels: channels of the stages.
    """

    def __init__(self, in_chans: int, channels: Sequence[int]) -> None:
        super().__init__()
        first = channels[0]
        self.stem = nn.Sequential(
            *conv_bn(in_chans, first), nn.ReLU(inplace=True), *conv_bn(first, first), nn.ReLU(inplace=True)
        )
        self.stages = nn.ModuleList()
        for i, chs in enumerate(channels):
            entry = ResidualBlock(chs) if i == 0 else DownBlock(channels[i - 1], chs)
            self.stages.append(nn.Sequential(entry, ResidualBlock(chs), ResidualBlock(chs)))
        self.apply(init_kaiming)

    def forward(self, x: Tensor, modulate: Modulate | None = None) -> list[Tensor]:
        """[B, in_chans, H, W] → stage i's map [B, channels[i], H/2ⁱ, W/2ⁱ] for every i."""
        features: list[Tensor] = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if modulate is not None:
                x = modulate(i, x)
            features.append(x)
        return features


class ChannelAttention(nn.Module):
    """σ of one small network applied to the mean and to the maximum of each channel (CBAM, ECCV 2018)."""

    def __init__(self, chs: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(chs, chs // reduction, 1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(chs // reduction, chs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, chs, H, W] → weights in (0, 1), [B, chs, 1, 1]."""
        pooled = (x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True))
        mean, maximum = (self.fc2(self.act(self.fc1(statistic))) for statistic in pooled)
        return torch.sigmoid(mean + maximum)


class SpatialAttention(nn.Module):
    """σ of a 7×7 convolution of the mean and the maximum over channels (CBAM, ECCV 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → weights in (0, 1), [B, 1, H, W]."""
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return torch.sigmoid(self.conv(pooled))


class CBAM(nn.Module):
    """Channel attention, then spatial attention (Woo et al., ECCV 2018)."""

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.channel = ChannelAttention(chs)
        self.spatial = SpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        """[B, chs, H, W] → [B, chs, H, W]."""
        x = x * self.channel(x)
        return x * self.spatial(x)


class BasicBlock(nn.Module):
    """act(refine(two 3×3 convolutions of x) + shortcut(x)), the shortcut 1×1 where channels change.

    Args:
        in_chs, out_chs: channels.
        refine: what the convolutions' result passes through; nothing by default.
        act: the activation, after the first convolution and at the end; ReLU by default.
    """

    def __init__(
        self, in_chs: int, out_chs: int, *, refine: nn.Module | None = None, act: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(in_chs, out_chs)
        self.conv2, self.bn2 = conv_bn(out_chs, out_chs)
        self.refine = nn.Identity() if refine is None else refine
        self.shortcut: nn.Module = nn.Identity()
        if in_chs != out_chs:
            self.shortcut = nn.Sequential(nn.Conv2d(in_chs, out_chs, 1), nn.BatchNorm2d(out_chs))
        self.act = nn.ReLU(inplace=True) if act is None else act

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_chs, H, W] → [B, out_chs, H, W]."""
        body = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        return self.act(self.refine(body) + self.shortcut(x))


def attention_blocks(in_chs: int, out_chs: int, count: int) -> nn.Sequential:
    """Residual blocks with CBAM in a row, the first of which changes the channels (DNANet, MSHNet)."""
    widths = (in_chs, *[out_chs] * count)
    return nn.Sequential(
        *(BasicBlock(widths[i], out_chs, refine=CBAM(out_chs)) for i in range(count)),
    )


class PoolingEncoder(nn.Module):
    """Stages in a row; 2×2 max-pooling halves the size before each but the first."""

    def __init__(self, stages: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor, modulate: Modulate | None = None) -> list[Tensor]:
        """[B, in_chans, H, W] → stage i's map, at H/2ⁱ × W/2ⁱ, for every i."""
        features: list[Tensor] = []
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else self.pool(x))
            if modulate is not None:
                x = modulate(i, x)
            features.append(x)
        return features
