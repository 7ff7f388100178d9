"""Random changes to a batch of crops and its labels, together, on the training device.

The recipe is that of the public point-supervised codes (PAL and its successors): half of the crops stay as
they are, each of the others gets three operations out of ten and two blanks. It differs in two points.
Brightening is limited so that nothing new saturates, since a target in a saturated crop cannot be seen but
would still be labelled. And what a rotation, shift or reduction brings in from outside is mirrored, so that
no black wedge looks like an edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .._transfer import to_device

_OPERATIONS = {
    "flip_vertical": 0.5,
    "flip_horizontal": 0.5,
    "transpose": 0.5,
    "quarter_turns": 0.5,
    "brightness": 0.2,
    "contrast": 0.2,
    "rotate": 0.3,
    "shift": 0.5,
    "scale": 0.5,
    "noise": 0.2,
    "blank_1": 0.5,
    "blank_2": 0.5,
}
"""Operation → relative frequency of being chosen."""


@dataclass(frozen=True)
class AugmentSettings:
    """How much a crop may change.

    Attributes:
        probability: part of the crops that are changed at all.
        num_operations: how many operations each of them gets, blanks counted.
        brightness: largest change of the level, as a part of full scale.
        contrast: largest relative change of the gray levels.
        degrees: largest rotation.
        shift: largest shift, as a part of the crop's side.
        scale: largest relative change of size.
        noise: smallest and largest standard deviation of the noise, as a part of full scale.
    """

    probability: float = 0.5
    num_operations: int = 3
    brightness: float = 0.3
    contrast: float = 0.3
    degrees: float = 45.0
    shift: float = 0.1
    scale: float = 0.2
    noise: tuple[float, float] = (0.0125, 0.0275)


@torch.no_grad()
def augment(
    image: Tensor,
    label: Tensor,
    generator: torch.Generator,
    settings: AugmentSettings | None = None,
    *,
    first: int = 0,
    total: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Change a batch of square crops at random.

    Image and label go through the same geometry, both bilinear: labels are soft, so that a value between 0
    and 1 at the edge of a moved target says truly how much of the pixel it covers; nearest-pixel labels would
    jump by half a pixel, much on a target of three. Flips and quarter turns move pixels exactly.

    Args:
        image: float32 [B, 1, n, n] in [0, 1].
        label: float32 [B, 1, n, n] in [0, 1].
        generator: a CPU generator; it decides everything, so that all devices see the same changes.
        settings: how much; the defaults if None.
        first, total: the crops are those from number `first` on of a batch of `total`, and change as they
            would in it; by default they are all of it.

    Returns:
        Image and label, new tensors of the same shape and range.

    Raises:
        ValueError: crops that are not square, or shapes that differ.
    """
    settings = settings or AugmentSettings()
    if image.shape != label.shape or image.shape[-1] != image.shape[-2]:
        raise ValueError(
            f"crops {tuple(image.shape)} and labels {tuple(label.shape)}, expected equal squares"
        )
    total, own = len(image) if total is None else total, slice(first, first + len(image))
    choices = _choose(total, generator, settings)
    chosen = {name: picked[own] for name, picked in choices.items()}
    # One row of numbers for each parameter, drawn whether used or not: the stream does not depend on choices.
    draws = iter(torch.rand(8, total, generator=generator)[:, own].unbind())
    both = torch.cat([image, label], 1)
    both = _turn(both, chosen, torch.floor(4 * next(draws)))
    both = _move(both, chosen, torch.stack([2 * next(draws) - 1 for _ in range(4)]), settings)
    image, label = both[:, :1], both[:, 1:]
    image = _change_levels(image, chosen, 2 * next(draws) - 1, 2 * next(draws) - 1, settings)
    image = _add_noise(image, choices["noise"], own, next(draws), generator, settings)
    return image.clamp(0, 1), label.clamp(0, 1)


def _choose(count: int, generator: torch.Generator, settings: AugmentSettings) -> dict[str, Tensor]:
    """Operation → bool [B]: drawn without replacement, by the Gumbel trick."""
    weights = torch.tensor(list(_OPERATIONS.values()))
    uniform = torch.rand(count, len(weights), generator=generator).clamp_min(1e-12)
    keys = weights.log() - (-uniform.log()).log()
    picked = torch.zeros_like(keys, dtype=torch.bool)
    picked.scatter_(1, keys.topk(settings.num_operations, 1).indices, True)
    picked &= (torch.rand(count, generator=generator) < settings.probability)[:, None]
    return dict(zip(_OPERATIONS, picked.unbind(1), strict=True))


def _turn(both: Tensor, chosen: dict[str, Tensor], turns: Tensor) -> Tensor:
    """Flips, transposition and quarter turns as one transposition and two flips: one gather for all crops."""
    turns = torch.where(chosen["quarter_turns"], turns, 0)
    transposed = chosen["transpose"] ^ (turns % 2 == 1)
    vertical = chosen["flip_vertical"] ^ ((turns == 1) | (turns == 2))
    horizontal = chosen["flip_horizontal"] ^ ((turns == 2) | (turns == 3))
    if not bool((transposed | vertical | horizontal).any()):
        return both
    side = both.shape[-1]
    forward = torch.arange(side)
    backward = side - 1 - forward
    # Pixel (y, x) comes from (ys[y], xs[x]) or, transposed, from (xs[x], ys[y]).
    ys = torch.where(vertical[:, None], backward, forward) * torch.where(transposed, 1, side)[:, None]
    xs = torch.where(horizontal[:, None], backward, forward) * torch.where(transposed, side, 1)[:, None]
    ys, xs = to_device(torch.stack([ys, xs]), both.device)
    source = (ys[:, :, None] + xs[:, None, :]).flatten(1)[:, None]
    return both.flatten(2).gather(2, source.expand(-1, both.shape[1], -1)).view_as(both)


def _move(both: Tensor, chosen: dict[str, Tensor], draws: Tensor, settings: AugmentSettings) -> Tensor:
    """Rotation, shift and scale as one affine map, for the crops that have any of them."""
    # What is not to move is not interpolated either: its labels stay exact.
    reach = {"rotate": settings.degrees, "shift": settings.shift, "scale": settings.scale}
    some = [chosen[name] for name, largest in reach.items() if largest > 0]
    if not some:
        return both
    moved = torch.nonzero(torch.stack(some).any(0)).squeeze(1)
    if len(moved) == 0:
        return both
    side = both.shape[-1]
    angle = torch.deg2rad(settings.degrees * draws[0]) * chosen["rotate"]
    scale = 1 + settings.scale * draws[1] * chosen["scale"]
    # In half sides from the centre, a point p goes to scale · R(angle) · p + shift; this is the way back.
    shift = settings.shift * side * draws[2:] * chosen["shift"] / (max(side - 1, 1) / 2)
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    back = torch.stack([torch.stack([cosine, sine], -1), torch.stack([-sine, cosine], -1)], -2)
    matrix = torch.cat([back, -back @ shift.T[:, :, None]], -1)[moved]
    crops = both.index_select(0, to_device(moved, both.device))
    grid = F.affine_grid(to_device(matrix, both.device), list(crops.shape), align_corners=True)
    warped = F.grid_sample(crops, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
    return _with_rows(both, moved, warped)


def _change_levels(
    image: Tensor, chosen: dict[str, Tensor], brighter: Tensor, stronger: Tensor, settings: AugmentSettings
) -> Tensor:
    """Multiply, then add; neither lifts the brightest pixel above full scale."""
    gain = 1 + settings.contrast * torch.where(chosen["contrast"], stronger, 0.0)
    offset = settings.brightness * torch.where(chosen["brightness"], brighter, 0.0)
    gain, offset = to_device(torch.stack([gain, offset]), image.device)[..., None, None, None]
    top = image.amax((2, 3), keepdim=True)
    gain = torch.minimum(gain, torch.clamp(1 / top.clamp_min(1e-6), min=1.0))
    offset = torch.minimum(offset, (1 - gain * top).clamp_min(0))
    return (image * gain + offset).clamp(0, 1)


def _add_noise(
    image: Tensor,
    choices: Tensor,
    own: slice,
    draw: Tensor,
    generator: torch.Generator,
    settings: AugmentSettings,
) -> Tensor:
    """Noise on the crops `own` of a batch, whose choices are those of the whole."""
    noisy = torch.nonzero(choices[own]).squeeze(1)
    if len(noisy) == 0:
        return image
    low, high = settings.noise
    sigma = (low + (high - low) * draw[noisy])[:, None, None, None]
    before = int(choices[: own.start].sum())
    noise = torch.randn(int(choices.sum()), *image.shape[1:], generator=generator)
    noise = sigma * noise[before : before + len(noisy)]
    clean = image.index_select(0, to_device(noisy, image.device))
    return _with_rows(image, noisy, clean + to_device(noise, image.device))


def _with_rows(batch: Tensor, places: Tensor, rows: Tensor) -> Tensor:
    """`batch` with `rows` in the given places, int64 on the host.

    By a lookup: writing to places waits for a GPU where kernels have to be repeatable.
    """
    source = torch.arange(len(batch))
    source[places] = torch.arange(len(batch), len(batch) + len(places))
    return torch.cat([batch, rows]).index_select(0, to_device(source, batch.device))
