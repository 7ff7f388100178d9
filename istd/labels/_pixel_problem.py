"""The small problem that boundary fractions are learned on: its pixels, its classifier and its losses."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._regions import BoolArray
from ._target_windows import TargetWindows
from .boundary import BoundaryFractions, soft_boundary_label

_PATCH = 5  # side of what the classifier sees around a pixel, px
_MARGIN = 3  # pixels around the support that are looked at; what lies further out no fraction reaches
_TINY = 1e-6


class PixelClassifier(nn.Module):
    """Is this pixel of a target? From its 5×5 neighbourhood, in shares of contrast, and the target's traits.

    A convolution of 5×5 and two of 1×1, written as linear layers on patches: so only pixels near targets are
    visited, a tenth of a window, and second derivatives are those of matrix products. tanh, because the
    hypergradient takes second derivatives, which a ReLU has none of.

    Args:
        features: numbers a pixel comes with.
        width: units of each hidden layer.
    """

    def __init__(self, features: int, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Logits [pixels] of pixels [pixels, features]."""
        return self.layers(features)[:, 0]


@dataclass(frozen=True)
class PixelTable:
    """The pixels of N targets, one after the other.

    Attributes:
        features: float [pixels, 25 + traits].
        level: float [pixels], `TargetWindows.level` as a share of the contrast.
        support: bool [pixels].
        truth: float [pixels], 1 on targets.
        starts: int64 [N + 1]; target i has the pixels starts[i] to starts[i + 1].
        kind: int64 [N].
    """

    features: Tensor
    level: Tensor
    support: Tensor
    truth: Tensor
    starts: Tensor
    kind: Tensor

    @classmethod
    def of(
        cls,
        targets: TargetWindows,
        truth: BoolArray,
        kind: npt.NDArray[np.int64],
        dtype: torch.dtype = torch.float32,
    ) -> PixelTable:
        """The counted pixels in and around the support of each target."""
        kernel = np.ones((2 * _MARGIN + 1,) * 2, np.uint8)
        near = np.stack([cv2.dilate(one.astype(np.uint8), kernel) > 0 for one in targets.support])
        owner, y, x = np.nonzero(near & targets.counted)
        low = targets.background[:, None, None]
        contrast = (targets.peak - targets.background)[:, None, None]
        share = np.clip((targets.image - low) / contrast, -1.0, 1.0)
        half = _PATCH // 2
        patches = np.lib.stride_tricks.sliding_window_view(
            np.pad(share, ((0, 0), (half, half), (half, half))), (_PATCH, _PATCH), (1, 2)
        )
        spread = targets.traits.std(axis=0)
        traits = (targets.traits - targets.traits.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
        features = np.concatenate([patches[owner, y, x].reshape(len(owner), -1), traits[owner]], axis=1)
        return cls(
            features=torch.from_numpy(features).to(dtype),
            level=torch.from_numpy(((targets.level - low) / contrast)[owner, y, x]).to(dtype),
            support=torch.from_numpy(targets.support[owner, y, x]),
            truth=torch.from_numpy(truth[owner, y, x]).to(dtype),
            starts=torch.from_numpy(np.searchsorted(owner, np.arange(len(targets) + 1))),
            kind=torch.from_numpy(kind),
        )

    def pixels(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(which pixels, whose they are: place in `targets`) of some targets, int64 [n] both."""
        first, last = self.starts[targets], self.starts[targets + 1]
        owner = torch.repeat_interleave(torch.arange(len(targets)), last - first)
        before = torch.cumsum(last - first, 0) - (last - first)
        return torch.arange(len(owner)) + (first - before)[owner], owner

    def labels(
        self, fractions: BoundaryFractions, targets: Tensor, pixels: Tensor, owner: Tensor, softness: float
    ) -> Tensor:
        """The soft label of each pixel [n]; `level` is a share already, so B is 0 and P is 1."""
        zero, one = torch.zeros((), dtype=self.level.dtype), torch.ones((), dtype=self.level.dtype)
        fraction = fractions(self.kind[targets])[owner]
        level, support = self.level[pixels][:, None, None], self.support[pixels][:, None, None]
        return soft_boundary_label(level, zero, one, fraction, support, softness)[:, 0, 0]


def inner_loss(
    table: PixelTable,
    model: PixelClassifier,
    fractions: BoundaryFractions,
    targets: Tensor,
    softness: float,
) -> Tensor:
    """BCE + (1 − soft IoU) of the classifier on the soft labels of `targets`, int64 [B]."""
    pixels, owner = table.pixels(targets)
    label = table.labels(fractions, targets, pixels, owner, softness)
    logits = model(table.features[pixels])
    overlap = _iou(torch.sigmoid(logits), label, owner, len(targets))
    return F.binary_cross_entropy_with_logits(logits, label) + 1.0 - overlap.mean()


def iou_loss(table: PixelTable, model: PixelClassifier, targets: Tensor) -> Tensor:
    """1 − soft IoU of the classifier with the truth, the mean over `targets`, int64 [B]."""
    pixels, owner = table.pixels(targets)
    probability = torch.sigmoid(model(table.features[pixels]))
    return 1.0 - _iou(probability, table.truth[pixels], owner, len(targets)).mean()


def _iou(first: Tensor, second: Tensor, owner: Tensor, count: int) -> Tensor:
    """Soft IoU Σab / Σ(a + b − ab) of each target, [count]."""
    zeros = torch.zeros(count, dtype=first.dtype)
    common = zeros.index_add(0, owner, first * second)
    union = zeros.index_add(0, owner, first + second - first * second)
    return (common + _TINY) / (union + _TINY)
