"""The contract that every detection network keeps, after timm's habits."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError
from .output import DeepOutput, Output

Modulate: TypeAlias = Callable[[int, Tensor], Tensor]
"""modulate(i, map) → the map that takes the place of stage i's, of the same shape."""


class FeatureInfo(NamedTuple):
    """One stage map, named as timm names these things.

    Attributes:
        num_chs: its channels.
        reduction: its stride with respect to the image.
        module: the module that makes it.
    """

    num_chs: int
    reduction: int
    module: str


class Backbone(nn.Module, ABC):
    """A segmentation network cut in two: an encoder that makes stage maps, a head that makes logits of them.

    `forward(x)` is `forward_head(forward_features(x), size)`; the cut is where SCAM works (see `scam.py`).

    A subclass implements `encode` and `decode`, which see only sizes that are multiples of `stride`. Any
    other size is first padded at the bottom and at the right by repeating the border, and the answer is
    cropped. Repeating, because a border of zeros is an edge that does not exist and small-target detectors
    answer to it, and because reflection is undefined for images smaller than the padding. A size that is
    a multiple of the stride is not touched.

    Args:
        in_chans: input channels of the network. Images of one channel are accepted by every network and
            repeated, so gray images need no preparation.
        mean: the image is normalised to (x − mean) / std first; one number, or one per channel. Mean and
            std are settings, not weights: they are not in the `state_dict`.
        std: see `mean`.
    """

    feature_info: ClassVar[list[FeatureInfo]]
    name: str = ""
    """Name in the registry; set by `create_model`."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, in_chans: int = 3, *, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0
    ) -> None:
        super().__init__()
        if in_chans < 1:
            raise ModelError("a network needs at least one input channel", found=in_chans)
        self.in_chans = in_chans
        self.register_buffer("mean", _per_channel("mean", mean, in_chans), persistent=False)
        self.register_buffer("std", _per_channel("std", std, in_chans), persistent=False)
        if not bool((self.std > 0).all()):
            raise ModelError("the standard deviation to normalise by must be positive", found=std)

    @property
    def stage_channels(self) -> list[int]:
        """Channels of the stage maps, finest stage first."""
        return [info.num_chs for info in self.feature_info]

    @property
    def stride(self) -> int:
        """The stride of the coarsest stage map; images are padded to a multiple of it."""
        return max(info.reduction for info in self.feature_info)

    @abstractmethod
    def encode(self, x: Tensor, modulate: Modulate | None) -> list[Tensor]:
        """Normalised image [B, in_chans, H, W] → stage maps, H and W multiples of `stride`."""

    @abstractmethod
    def decode(self, features: Sequence[Tensor]) -> Output:
        """Stage maps → logits at the resolution of the (padded) image."""

    def final_layers(self) -> list[nn.Conv2d]:
        """The layers that produce logits, whose bias `set_prior` sets: by default what ends `self.head`."""
        last = list(self.get_submodule("head").children())[-1:]
        return [layer for layer in last if isinstance(layer, nn.Conv2d)]

    def set_prior(self, probability: float) -> None:
        """Start from predicting `probability` at every pixel (Lin et al., ICCV 2017, section 4.1).

        The bias of the last layer becomes −log((1 − π)/π) and its weights small (σ = 0.01), so that the
        first steps are not spent on learning that nearly every pixel is background: targets cover about
        0.06 % of the pixels, and plain cross-entropy from a prediction of 0.5 starts slowly.

        Raises:
            ModelError: if `probability` is not inside (0, 1).
        """
        if not 0.0 < probability < 1.0:
            raise ModelError("the prior must be a probability", found=probability, expected="0 < prior < 1")
        for layer in self.final_layers():
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is None:  # every network here has one
                raise ModelError("the last layer has no bias to put a prior in", where=type(self).__name__)
            nn.init.constant_(layer.bias, -math.log((1.0 - probability) / probability))

    def fuse(self) -> Backbone:
        """A copy in the form to deploy, in evaluation mode: the same answers, in fewer layers if it can."""
        return copy.deepcopy(self).eval()

    def forward_features(self, x: Tensor, modulate: Modulate | None = None) -> list[Tensor]:
        """Image → stage maps.

        Args:
            x: [B, 1 or in_chans, H, W], floating point, any H and W.
            modulate: if given, stage i's map is replaced by `modulate(i, map)` *before* the next stage
                sees it (the cascade drawn in the paper's figure).

        Returns:
            One map a stage, finest first: [B, num_chs, H′/reduction, W′/reduction] with H′, W′ the padded
            size.

        Raises:
            ModelError: if the image has another number of dimensions or channels, or is not floating point.
        """
        return self.encode(self._prepare(x), modulate)

    def forward_head(self, features: Sequence[Tensor], size: tuple[int, int] | None = None) -> Output:
        """Stage maps → logits [B, 1, H, W].

        Args:
            features: one map a stage, as `forward_features` gives them, modulated or not.
            size: (H, W) of the image before padding; the logits are cropped to it. Without it they keep the
                padded size.
        """
        if len(features) != len(self.feature_info):
            raise ModelError(
                "the head needs one map a stage", found=len(features), expected=len(self.feature_info)
            )
        output = self.decode(features)
        return output if size is None else _crop(output, size)

    def forward(self, x: Tensor) -> Output:
        """Image [B, 1 or in_chans, H, W] → logits [B, 1, H, W] (or `DeepOutput`), for any H and W."""
        return self.forward_head(self.forward_features(x), (x.shape[-2], x.shape[-1]))

    def _prepare(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] not in (1, self.in_chans):
            channels = "1" if self.in_chans == 1 else f"1 or {self.in_chans}"
            raise ModelError(
                "the image has the wrong shape",
                found=tuple(x.shape),
                expected=f"[batch, {channels}, height, width]",
            )
        if not x.is_floating_point():
            raise ModelError(
                "the image must be floating point", found=x.dtype, fix="divide 8-bit images by 255"
            )
        height, width = x.shape[-2:]
        x = ((x - self.mean) / self.std).to(x.dtype)  # one channel becomes in_chans here
        down, right = -height % self.stride, -width % self.stride
        return F.pad(x, (0, right, 0, down), mode="replicate") if down or right else x


def _per_channel(what: str, value: float | Sequence[float], channels: int) -> Tensor:
    values = [float(value)] * channels if isinstance(value, int | float) else [float(v) for v in value]
    if len(values) != channels:
        raise ModelError(
            f"{what} needs one number, or one per input channel", found=values, expected=channels
        )
    return torch.tensor(values).view(1, channels, 1, 1)


def _crop(output: Output, size: tuple[int, int]) -> Output:
    if not isinstance(output, DeepOutput):
        return output[..., : size[0], : size[1]]
    height, width = output.logits.shape[-2:]
    aux = (
        # A coarser map keeps every cell that sees a pixel of the image.
        map[..., : math.ceil(size[0] * map.shape[-2] / height), : math.ceil(size[1] * map.shape[-1] / width)]
        for map in output.aux
    )
    return DeepOutput(output.logits[..., : size[0], : size[1]], tuple(aux))
