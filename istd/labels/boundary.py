"""The boundary fraction as something to learn: one for each kind of target, and soft labels made from them.

A target ends where the image falls to B + f·(P − B), with P its peak and B its background as in `contrast`.
Cut hard, the label would have no derivative with respect to f; here it falls from 1 to 0 over a few gray
levels, so that a loss of whatever was trained on the label can be differentiated through to f.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import ConfigError


class BoundaryFractions(nn.Module):
    """f_c = sigmoid(shared + deviation_c): where between background (0) and peak (1) targets of kind c end.

    One free number a kind would be simpler, but a handful of trusted masks leaves kinds with two targets, or
    none. Of the 327 training targets of SIRST v1 the fractions that fit each best spread by 0.14 around
    their mean, those of whole kinds by 0.05. So what all targets have in common is learned from all of them,
    what sets a kind apart is held back more (`pull`), and a kind that nobody trusted a mask of follows the
    others instead of staying at the prior. With one kind there is no deviation.

    Args:
        num_clusters: kinds of targets, ≥ 1.
        prior: the fraction to start from and to be pulled to, in (0, 1).

    Attributes:
        shared: parameter, a scalar.
        deviation: parameter [num_clusters], 0 at the start; a constant 0 if there is one kind.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, num_clusters: int, prior: float = 0.3) -> None:
        super().__init__()
        if num_clusters < 1:
            raise ConfigError("boundary fractions need at least one cluster of targets", found=num_clusters)
        if not 0.0 < prior < 1.0:
            raise ConfigError(
                "the prior of a boundary fraction is out of range", found=prior, expected="(0, 1)"
            )
        self.prior = prior
        logit = math.log(prior / (1.0 - prior))
        self.shared = nn.Parameter(torch.tensor(logit))
        self.deviation = nn.Parameter(torch.zeros(num_clusters), requires_grad=num_clusters > 1)

    def fractions(self) -> Tensor:
        """All fractions, [num_clusters], in (0, 1)."""
        return torch.sigmoid(self.shared + self.deviation)

    def forward(self, cluster: Tensor) -> Tensor:
        """The fraction of each target.

        Args:
            cluster: kind of each target, int64, any shape.

        Returns:
            Fractions in (0, 1), in the shape of `cluster`.
        """
        return self.fractions()[cluster]

    def pull(self, prior_weight: float, deviation_weight: float) -> Tensor:
        """prior_weight·(f − prior)² + deviation_weight·Σ_c (f_c − f)², with f = sigmoid(shared); a scalar.

        Both differences are of fractions, so that their weights compare with what a fraction off its best
        costs in the loss.
        """
        middle = torch.sigmoid(self.shared)
        off = (self.fractions() - middle).square().sum()
        return prior_weight * (middle - self.prior).square() + deviation_weight * off


def soft_boundary_label(
    image: Tensor,
    background: Tensor,
    peak: Tensor,
    fraction: Tensor,
    support: Tensor,
    softness: float = 0.03,
) -> Tensor:
    """σ((I − [B + f·(P − B)]) / (softness·(P − B))) on the support of a target, 0 elsewhere.

    As softness → 0 this is the hard region of `contrast`, as far as the support holds it.

    Args:
        image: I, gray levels, float [..., H, W].
        background, peak: B and P, P > B, shape [...].
        fraction: f, shape [...]; the result is differentiable in it.
        support: bool [..., H, W], where the target may be: its connected region at a low fraction.
        softness: τ > 0, the width of the edge as a share of the contrast.

    Returns:
        Soft labels in [0, 1], [..., H, W], in the type of `image` and `fraction`.
    """
    contrast = (peak - background)[..., None, None]
    boundary = background[..., None, None] + fraction[..., None, None] * contrast
    return torch.sigmoid((image - boundary) / (softness * contrast)) * support
