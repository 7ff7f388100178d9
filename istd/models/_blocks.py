"""Residual blocks and encoder that MLCL-Net and ALCL-Net share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .backbone import Modulate


def init_kaiming(module: nn.Module) -> None:
    """Initialise as both papers' code does: He normal over fan-out, zero biases (for `module.apply`)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


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
