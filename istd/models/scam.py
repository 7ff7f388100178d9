"""SCAM: modulation of a CNN by the semantics of a frozen foundation model (arXiv 2605.14346, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .modulation import Modulation


class SCAM(nn.Module):
    """Turns the hidden maps of a foundation model into per-stage channel modulation.

    1. Soft fusion of the K maps: F = Σₖ softmax(π)ₖ F⁽ᵏ⁾.
    2. Token-attention pooling: a = softmax over tokens of a 1×1 convolution of F, g = Σ a · F.
    3. An MLP d → hidden → 2 ΣC with ReLU gives γ̂ᵢ and βᵢ of every stage.
    4. γ = 1 + tanh(gate ⊙ γ̂), the gate starting at 1 and pulled to 0 by the gate regulariser
       (`istd.losses.gate_penalty`).

    Args:
        embed_dim: d, channels of the hidden maps.
        num_layers: K, number of hidden maps.
        stage_channels: Cᵢ, channels of the backbone's stage maps.
        hidden_dim: width of the MLP.
        scale: s of the modulation (`modulation_scale`).

    Attributes:
        fusion: π, [K], starting at 0 (equal weights).
        gate: [ΣC], starting at 1.
    """

    def __init__(
        self,
        embed_dim: int,
        num_layers: int,
        stage_channels: Sequence[int],
        hidden_dim: int = 128,
        *,
        scale: float,
    ) -> None:
        super().__init__()
        if min(embed_dim, num_layers, hidden_dim, *stage_channels) < 1:
            raise ModelError(
                "SCAM needs positive sizes",
                found=f"{embed_dim=}, {num_layers=}, {hidden_dim=}, stage_channels={list(stage_channels)}",
            )
        self.embed_dim = embed_dim
        self.num_layers = num_layers
        self.stage_channels = list(stage_channels)
        self.scale = float(scale)
        self.fusion = nn.Parameter(torch.zeros(num_layers))
        self.attention = nn.Conv2d(embed_dim, 1, 1)
        total = sum(self.stage_channels)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, hidden_dim), nn.ReLU(inplace=True), nn.Linear(hidden_dim, 2 * total)
        )
        self.gate = nn.Parameter(torch.ones(total))

    def fuse(self, maps: Tensor) -> Tensor:
        """Soft fusion: [B, K, d, h, w] → [B, d, h, w].

        One matrix product over K, so that no weighted copy of a map is made; maps in half precision are
        converted to the parameters' precision first.
        """
        batch, layers, dim, height, width = maps.shape
        weights = self.fusion.softmax(0).expand(batch, 1, layers)
        flat = maps.to(self.fusion.dtype).reshape(batch, layers, -1)
        return torch.bmm(weights, flat).view(batch, dim, height, width)

    def pool(self, fused: Tensor) -> Tensor:
        """Token-attention pooling: [B, d, h, w] → [B, d]."""
        attention = self.attention(fused).flatten(1).softmax(-1)
        return torch.bmm(fused.flatten(2), attention.to(fused.dtype).unsqueeze(-1)).squeeze(-1)

    def forward(self, maps: Tensor) -> Modulation:
        """Hidden maps → modulation.

        Args:
            maps: [B, K, d, h, w], any h and w, float of any width.

        Raises:
            ModelError: if the maps are of another model or number of layers.
        """
        if maps.ndim != 5 or maps.shape[1] != self.num_layers or maps.shape[2] != self.embed_dim:
            raise ModelError(
                "the hidden maps do not fit this teacher",
                found=tuple(maps.shape),
                expected=f"[batch, {self.num_layers}, {self.embed_dim}, height, width]",
                fix="use the foundation model and the number of layers that the teacher was made for",
            )
        parameters = self.mlp(self.pool(self.fuse(maps)))[:, :, None, None]
        gammas, betas = [], []
        # The MLP's output holds γ̂ᵢ then βᵢ, stage by stage, so the public weights fit as they are.
        halves = parameters.split([chs for chs in self.stage_channels for _ in range(2)], dim=1)
        gates = self.gate[None, :, None, None].split(self.stage_channels, dim=1)
        for gamma, beta, gate in zip(halves[0::2], halves[1::2], gates, strict=True):
            gammas.append(1.0 + torch.tanh(gate * gamma))
            betas.append(beta)
        return Modulation(tuple(gammas), tuple(betas), self.scale)
