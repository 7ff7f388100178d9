"""Probability maps of images of any size: overlapping tiles, smooth weights that sum to 1, batches, flips.

An image larger than a tile is cut into overlapping tiles. Tiles begin at multiples of the network's stride,
so that pooling grids are those of the whole image, and the last one of a row or column ends with the image,
so that no pixel is left out. Within an overlap the tiles' probabilities are blended by a raised cosine that
is 0 at a tile's inner edge. A pixel that lies in one tile only is at least an overlap away from that tile's
inner edges, so its answer is that of the whole image if the network's receptive field reaches no farther.
Probabilities are blended, not logits: they are bounded, so that no tile's border can outvote the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError

LogitFunction = Callable[[Tensor], Tensor]
"""float [B, 1, H, W] in [0, 1] → logits [B, 1, H, W]."""


@dataclass(frozen=True)
class Tiling:
    """How images are cut, batched and flipped.

    Attributes:
        tile: side of a tile in pixels; 0 takes every image whole.
        overlap: pixels that neighbouring tiles share, at least; less than half a tile.
        batch_size: tiles (or whole images) of one size that go through the network together.
        flips: average over the image and its mirror images (test-time augmentation), four times the work.
        stride: of the network; tiles begin at multiples of it.

    Raises:
        ConfigError: values out of range.
    """

    tile: int = 0
    overlap: int = 64
    batch_size: int = 1
    flips: bool = False
    stride: int = 1

    def __post_init__(self) -> None:
        for name in ("tile", "overlap", "batch_size", "stride"):
            if type(getattr(self, name)) is not int:
                raise ConfigError(
                    f"{name} of the tiling is no whole number",
                    found=repr(getattr(self, name)),
                    expected="int",
                )
        if self.tile < 0 or self.batch_size < 1 or self.stride < 1 or self.overlap < 0:
            raise ConfigError(
                "the tiling is out of range",
                found=f"tile {self.tile}, overlap {self.overlap}, batch size {self.batch_size}",
                expected="tile ≥ 0, overlap ≥ 0, batch size ≥ 1",
            )
        if self.tile and (2 * self.overlap > self.tile or self.tile - self.overlap < self.stride):
            raise ConfigError(
                "--overlap is too large for --tile",
                found=f"overlap {self.overlap}, tile {self.tile}, stride of the network {self.stride}",
                expected="overlap at most half a tile, and the rest at least the stride",
            )


class Span(NamedTuple):
    """A tile along one axis.

    Attributes:
        start, stop: its pixels.
        weight: float32 [stop − start]; over all spans of the axis the weights of a pixel sum to 1.
    """

    start: int
    stop: int
    weight: Tensor


def spans(length: int, tiling: Tiling) -> list[Span]:
    """Cut an axis of `length` pixels."""
    tile, stride = tiling.tile, tiling.stride
    if not tile or length <= tile:
        return [Span(0, length, torch.ones(length))]
    step = (tile - tiling.overlap) // stride * stride
    last = -(-(length - tile) // stride) * stride  # the last tile may be a little shorter
    starts = [*range(0, last, step), last]
    stops = [min(start + tile, length) for start in starts]
    weights = []
    for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        weight = torch.ones(stop - start, dtype=torch.float64)
        if i > 0:
            shared = stops[i - 1] - start
            weight[:shared] *= _ramp(shared)
        if i + 1 < len(starts):
            shared = stop - starts[i + 1]
            weight[len(weight) - shared :] *= _ramp(shared).flip(0)
        weights.append(weight)
    total = torch.zeros(length, dtype=torch.float64)
    for start, stop, weight in zip(starts, stops, weights, strict=True):
        total[start:stop] += weight
    # The last two tiles may share more than the others, so that three meet; hence the division.
    return [
        Span(start, stop, (weight / total[start:stop]).float())
        for start, stop, weight in zip(starts, stops, weights, strict=True)
    ]


def _ramp(length: int) -> Tensor:
    """A raised cosine from just above 0 to just below 1, float64 [length]; it and its mirror sum to 1."""
    middle = (torch.arange(length, dtype=torch.float64) + 0.5) / length
    return 0.5 - 0.5 * torch.cos(torch.pi * middle)


class _Piece(NamedTuple):
    """One tile of one image."""

    image: int
    rows: Span
    columns: Span


@torch.no_grad()
def probability_maps_of(predict: LogitFunction, images: Sequence[Tensor], tiling: Tiling) -> list[Tensor]:
    """Probabilities of some images, float32 [H, W] each, of images uint8 [H, W] of any sizes.

    Args:
        predict: the network.
        images: on any device; the maps lie there too.
        tiling: how.
    """
    maps = [torch.zeros(image.shape, device=image.device) for image in images]
    for batch in _batches(images, tiling):
        pixels = torch.stack(
            [
                images[piece.image][
                    piece.rows.start : piece.rows.stop, piece.columns.start : piece.columns.stop
                ]
                for piece in batch
            ]
        )
        answers = _probabilities(predict, pixels[:, None].float() / 255.0, tiling.flips)[:, 0]
        for piece, answer in zip(batch, answers, strict=True):
            rows, columns = piece.rows, piece.columns
            weight = rows.weight[:, None] * columns.weight[None]
            target = maps[piece.image][rows.start : rows.stop, columns.start : columns.stop]
            target += answer * weight.to(answer.device)
    return maps


def _batches(images: Sequence[Tensor], tiling: Tiling) -> Iterator[list[_Piece]]:
    """Tiles of one size in batches, in the order of the images as far as sizes allow."""
    waiting: dict[tuple[int, int], list[_Piece]] = defaultdict(list)
    for number, image in enumerate(images):
        height, width = image.shape
        all_columns = spans(width, tiling)
        for rows in spans(height, tiling):
            for columns in all_columns:
                size = (rows.stop - rows.start, columns.stop - columns.start)
                waiting[size].append(_Piece(number, rows, columns))
                if len(waiting[size]) == tiling.batch_size:
                    yield waiting.pop(size)
    yield from waiting.values()


def _probabilities(predict: LogitFunction, pixels: Tensor, flips: bool) -> Tensor:
    """Probabilities [B, 1, H, W], averaged over the four mirror images if `flips`."""
    if not flips:
        return torch.sigmoid(predict(pixels).float()).to(pixels.device)
    total = torch.zeros_like(pixels)
    for axes in ((), (-1,), (-2,), (-2, -1)):
        total += torch.sigmoid(predict(pixels.flip(axes)).float()).flip(axes).to(pixels.device)
    return total / 4
