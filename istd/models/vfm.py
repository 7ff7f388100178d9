"""The frozen vision foundation model (VFM) whose hidden maps guide the teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError
from ._vfm_source import DEFAULT_RANDOM_ARCH, Source, resolve

DEFAULT_VFM = "vit_small_plus_patch16_dinov3.lvd1689m"
"""DINOv3 ViT-S+/16, the paper's teacher."""


class _Normalised(nn.Module):
    """A ViT and the statistics that its images are normalised by, moved and converted together."""

    mean: Tensor
    std: Tensor

    def __init__(self, vit: nn.Module, mean: Sequence[float], std: Sequence[float], like: Tensor) -> None:
        super().__init__()
        self.vit = vit
        for name, values in (("mean", mean), ("std", std)):
            statistics = torch.tensor(values, dtype=like.dtype, device=like.device)
            self.register_buffer(name, statistics.view(1, -1, 1, 1))


class FrozenVFM(nn.Module):
    """A ViT that only looks: image → hidden maps, always in eval mode, never with a gradient.

    PyTorch sees a module without parameters or buffers: the ViT is not in `parameters()`, not in
    `state_dict()` and not in a checkpoint of anything that holds it, and no optimiser or `functional_call`
    can touch it. `to(...)` moves and converts it all the same.

    Args:
        source: the ViT and where it came from (`create_vfm` makes it).
        num_layers: K, how many of the last blocks to return; None for all.
        norm: apply the ViT's final normalisation, if it has one, to every map. Hidden states of ViTs grow
            with depth and carry a few huge channels; normalised, all K maps are on one scale, so equal
            fusion weights mean equal shares.

    Attributes:
        name: the timm architecture, or the class of a module that was passed in.
        origin: in words, where the weights came from.
        is_random: True if the weights are random, so that whoever reports results can say so.
        embed_dim: d. num_layers: K. patch_size: (height, width) of a token in pixels.
    """

    def __init__(self, source: Source, num_layers: int | None = None, *, norm: bool = True) -> None:
        super().__init__()
        self.name = source.name
        self.origin = source.origin
        self.is_random = source.is_random
        self.norm = norm
        depth = _depth(source.model, source.name)
        if num_layers is not None and not 1 <= num_layers <= depth:
            raise ModelError(
                f"{source.name} has {depth} blocks",
                found=f"num_layers={num_layers}",
                expected=f"1 to {depth}",
            )
        self.num_layers = depth if num_layers is None else num_layers
        self.patch_size = _patch_size(source.model, source.name)
        # A module that was passed in may lie on any device, in any precision.
        like = next(source.model.parameters())
        model = _Normalised(source.model, source.mean, source.std, like).eval().requires_grad_(False)
        self._hidden = (model,)  # in a tuple, so that nn.Module does not register it
        probe = torch.zeros(1, 3, *self.patch_size, dtype=like.dtype, device=like.device)
        self.embed_dim = int(self._intermediates(probe)[0].shape[1])

    @property
    def model(self) -> nn.Module:
        """The ViT itself."""
        return self._hidden[0].vit

    @property
    def num_parameters(self) -> int:
        """How many (frozen) parameters the ViT has."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def fingerprint(self) -> str:
        """A hash (64 hexadecimal digits) of all that decides the maps of an image: weights and settings.

        Features cached under one fingerprint are valid for any VFM that has the same one. The weights are
        hashed as they are now, in their present precision; the device does not matter.
        """
        # The architecture without its tag: the same weights from the hub and from a file are the same.
        config = getattr(self.model, "pretrained_cfg", None) or {}
        arch = config.get("architecture") or type(self.model).__name__
        digest = hashlib.sha256(f"{arch}|{self.num_layers}|{self.norm}|{self.patch_size}".encode())
        for name, value in sorted(self._hidden[0].state_dict().items()):
            digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Image → hidden maps of the last K blocks, shallowest first.

        Args:
            image: [B, 1 or 3, H, W] in [0, 1], any size; one channel is repeated. It is normalised with the
                model's own mean and standard deviation, and padded at the bottom and right by repeating the
                border to a multiple of the patch.

        Returns:
            [B, K, d, ⌈H/patch⌉, ⌈W/patch⌉] in the model's dtype (autocast's under autocast), without grad.

        Raises:
            ModelError: if the image has another shape or is not floating point.
        """
        if image.ndim != 4 or image.shape[1] not in (1, 3) or not image.is_floating_point():
            raise ModelError(
                "the foundation model got an image it cannot use",
                found=f"{tuple(image.shape)} {image.dtype}",
                expected="[batch, 1 or 3, height, width], floating point in [0, 1]",
            )
        model = self._hidden[0]
        x = (image.to(model.mean.dtype) - model.mean) / model.std
        down, right = -x.shape[-2] % self.patch_size[0], -x.shape[-1] % self.patch_size[1]
        if down or right:
            x = F.pad(x, (0, right, 0, down), mode="replicate")
        return torch.stack(self._intermediates(x), dim=1)

    @torch.no_grad()
    def _intermediates(self, x: Tensor) -> list[Tensor]:
        forward_intermediates: Any = self.model.forward_intermediates
        maps = forward_intermediates(x, indices=self.num_layers, norm=self.norm, intermediates_only=True)
        return list(maps)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever the modules around do (dropout and stochastic depth stay off)."""
        super().train(False)
        self._hidden[0].eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # What `to`, `cuda`, `half` and the like call: pass it on to the module that PyTorch does not see.
        super()._apply(fn, recurse)
        self._hidden[0]._apply(fn, recurse)
        return self

    def extra_repr(self) -> str:
        """One line for `print(vfm)`."""
        return f"{self.name}, {self.origin}, num_layers={self.num_layers}, embed_dim={self.embed_dim}"


def create_vfm(
    spec: str | Path | nn.Module = DEFAULT_VFM,
    num_layers: int | None = None,
    *,
    arch: str | None = None,
    norm: bool = True,
    seed: int = 0,
    timeout: float = 5.0,
) -> FrozenVFM:
    """Make a frozen foundation model. Random weights only if asked for by name.

    Args:
        spec: one of
            - a timm model name, with or without a tag ("vit_small_patch14_dinov2.lvd142m"): its pretrained
              weights, from the local cache of the Hugging Face hub, else downloaded;
            - a weight file (.safetensors, .pth, .pt, .bin), or a folder as the hub has it (config.json and
              weights). A file's architecture is taken from `arch`, from the spec itself
              ("vit_small_patch16_dinov3:weights.pth"), from "architecture" in a safetensors file's metadata,
              or from a config.json beside it;
            - "random", or "random:<timm name>": random weights, the same for the same seed; a small ViT
              unless named. For trying things without a network, never for results;
            - a timm ViT that you have loaded already. It is frozen in place; timm's `pretrained_cfg` gives
              mean and standard deviation (ImageNet's if it has none).
        num_layers: K, how many of the last blocks to fuse; None for all.
        arch: timm architecture of a weight file.
        norm: see `FrozenVFM`.
        seed: of random weights. The global generators are left as they were in every case.
        timeout: seconds to wait for the hub to answer before giving up.

    Raises:
        ModelError: if the name is unknown, the hub cannot be reached and the weights are not in its cache,
            the file is missing, damaged, would execute code, or is of another architecture, or the model is
            not a ViT.
    """
    return FrozenVFM(resolve(spec, arch, seed=seed, timeout=timeout), num_layers, norm=norm)


def _depth(model: nn.Module, name: str) -> int:
    blocks = getattr(model, "blocks", None)
    if not callable(getattr(model, "forward_intermediates", None)) or not isinstance(
        blocks, nn.ModuleList | nn.Sequential
    ):
        raise ModelError(
            "this is not a vision transformer as timm builds them",
            where=name,
            expected="a model with blocks, patch_embed and forward_intermediates",
            fix=f"choose a ViT, for example {DEFAULT_VFM} or {DEFAULT_RANDOM_ARCH}",
        )
    return len(blocks)


def _patch_size(model: nn.Module, name: str) -> tuple[int, int]:
    embed: Any = getattr(model, "patch_embed", None)
    patch = getattr(embed, "patch_size", None)
    if patch is None:
        raise ModelError(
            "this model does not say its patch size", where=name, expected="model.patch_embed.patch_size"
        )
    if getattr(embed, "strict_img_size", False):
        raise ModelError(
            "this model accepts images of one size only",
            where=name,
            fix="create it with timm.create_model(..., dynamic_img_size=True)",
        )
    return (patch, patch) if isinstance(patch, int) else (int(patch[0]), int(patch[1]))
