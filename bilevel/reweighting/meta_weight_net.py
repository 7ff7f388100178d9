"""Meta-Weight-Net: a small network from a sample's loss to its weight (Shu et al., NeurIPS 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._numbers import check_numbers
from ..errors import BatchError
from ._parameterization import NORMALIZATIONS, Normalization, chosen


class MetaWeightNet(nn.Module):
    """V(L; Θ) = σ(W₂·relu(W₁·L + b₁) + b₂): the weight of a sample as a learned function of its loss.

    Its size does not grow with the data, and it also weighs samples that it has never seen.

    In the published method a weight is a constant where the inner loss is differentiated: the inner gradient
    is Σᵢ V(Lᵢ) ∇Lᵢ. With `detach=True` that holds here too, and the hypergradient through one inner step is
    exact; in further steps (and in Hessians) how V follows the moving losses is left out. With
    `detach=False` the inner loss Σᵢ V(Lᵢ) Lᵢ is an ordinary function of both levels' parameters, with inner
    gradient Σᵢ (V + V′·Lᵢ) ∇Lᵢ, and every exact method is exact on it.

    Args:
        hidden: hidden units; the paper has 100.
        detach: whether weights are constants in the inner gradient, see above.
        normalize: see `TableWeights`; `"none"` as in the paper's method section.

    Raises:
        OptionError: an argument is out of range.
    """

    def __init__(self, hidden: int = 100, *, detach: bool = True, normalize: Normalization = "none") -> None:
        super().__init__()
        check_numbers("MetaWeightNet", whole={"hidden": hidden})
        self._scale = chosen(NORMALIZATIONS, normalize, "MetaWeightNet(normalize)")
        self.detach = detach
        self.normalize = normalize
        self.first = nn.Linear(1, hidden)
        self.second = nn.Linear(hidden, 1)

    def forward(self, losses: Tensor) -> Tensor:
        """The weights of a batch.

        Args:
            losses: the loss of each sample, shape [B]; of a type that the parameters' type holds.

        Returns:
            Weights in (0, 1), times the batch's scale if normalised; shape [B].

        Raises:
            BatchError: the losses are not a vector, or of a wider type than the parameters.
        """
        if not isinstance(losses, Tensor) or losses.dim() != 1 or not losses.is_floating_point():
            raise BatchError(
                "the losses are not a vector of numbers",
                where="MetaWeightNet",
                found=f"shape {tuple(losses.shape)}, type {losses.dtype}"
                if isinstance(losses, Tensor)
                else type(losses).__name__,
                expected="one loss a sample, shape [B]",
                fix='compute them with reduction="none"',
            )
        own = self.first.weight.dtype
        if torch.promote_types(losses.dtype, own) != own:
            raise BatchError(
                "the losses are more precise than the network",
                where="MetaWeightNet",
                found=f"{losses.dtype}, and parameters of {own}",
                fix="call double() on it before the optimiser is built, or give it losses.float()",
            )
        seen = (losses.detach() if self.detach else losses)[:, None].to(own)
        return self._scale(torch.sigmoid(self.second(torch.relu(self.first(seen)))[:, 0]))

    def extra_repr(self) -> str:
        """Shown by print."""
        return f"detach={self.detach}, normalize={self.normalize!r}"
