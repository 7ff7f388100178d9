"""Tiles cover every pixel with weights that sum to 1, and change nothing where they need not."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from istd.engine.tiling import Tiling, probability_maps_of, spans
from istd.errors import ConfigError


def picture(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def pixel_logits(x: Tensor) -> Tensor:
    """A network that sees one pixel."""
    return 4 * x - 2


def small_network(x: Tensor) -> Tensor:
    """Two convolutions around a pooling of stride 4: no pixel sees farther than 8; not symmetric."""
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(1, 1, 3, 3, generator=generator)
    second = torch.randn(1, 1, 3, 3, generator=generator)
    height, width = x.shape[-2:]
    x = F.pad(x, (0, -width % 4, 0, -height % 4), mode="replicate")
    x = F.max_pool2d(F.conv2d(x, first, padding=1), 4)
    x = F.interpolate(F.conv2d(x, second, padding=1), scale_factor=4.0, mode="nearest")
    return x[..., :height, :width]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.integers(8, 96), st.floats(0, 0.5), st.sampled_from([1, 2, 4, 8]))
def test_tiles_cover_an_axis_and_their_weights_sum_to_one(
    length: int, tile: int, part: float, stride: int
) -> None:
    overlap = int(part * tile)
    if tile - overlap < stride:
        with pytest.raises(ConfigError, match="overlap"):
            Tiling(tile, overlap, stride=stride)
        return
    cut = spans(length, Tiling(tile, overlap, stride=stride))
    total = torch.zeros(length)
    for span in cut:
        assert 0 <= span.start < span.stop <= length
        assert span.stop - span.start <= tile
        assert span.start % stride == 0
        assert bool((span.weight > 0).all())
        total[span.start : span.stop] += span.weight
    torch.testing.assert_close(total, torch.ones(length))
    assert cut[-1].stop == length
    for one, other in itertools.pairwise(cut):
        assert one.stop - other.start >= min(overlap, tile - stride)


@pytest.mark.parametrize("shape", [(1, 1), (7, 200), (64, 64), (65, 64), (130, 97)])
@pytest.mark.parametrize("tile", [0, 32, 64])
def test_a_network_without_surroundings_is_not_changed_at_any_size(shape: tuple[int, int], tile: int) -> None:
    image = picture(*shape)
    expected = torch.sigmoid(pixel_logits(image.float() / 255))
    for flips in (False, True):
        tiling = Tiling(tile, 8, batch_size=3, flips=flips, stride=4)
        torch.testing.assert_close(probability_maps_of(pixel_logits, [image], tiling)[0], expected)


def test_the_whole_image_is_answered_as_it_always_was() -> None:
    image = picture(30, 41)
    expected = torch.sigmoid(small_network(image[None, None].float() / 255)[0, 0])
    assert torch.equal(probability_maps_of(small_network, [image], Tiling())[0], expected)


@pytest.mark.parametrize("shape", [(150, 171), (96, 203)])
def test_away_from_seams_tiles_give_the_answer_of_the_whole(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    whole = probability_maps_of(small_network, [image], Tiling())[0]
    tiling = Tiling(64, 16, stride=4, batch_size=4)
    tiled = probability_maps_of(small_network, [image], tiling)[0]
    away = []
    for length in shape:
        covered = torch.zeros(length)
        for span in spans(length, tiling):
            covered[span.start : span.stop] += 1
        away.append(covered == 1)  # 16 pixels from every inner edge
    clear = away[0][:, None] & away[1][None]
    assert clear.float().mean() > 0.2
    torch.testing.assert_close(tiled[clear], whole[clear], rtol=0, atol=1e-6)
    assert (tiled - whole).abs().max() > 1e-3, "the seams should show that the image was tiled at all"


def test_batches_change_nothing() -> None:
    images = [picture(70, 90, seed=1), picture(40, 40, seed=2), picture(70, 90, seed=3)]
    one = [probability_maps_of(small_network, [image], Tiling(48, 8, stride=4))[0] for image in images]
    for batch_size in (2, 5, 100):
        together = probability_maps_of(small_network, images, Tiling(48, 8, batch_size, stride=4))
        for first, second in zip(one, together, strict=True):
            torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


def test_flips_make_the_answer_symmetric() -> None:
    image = picture(32, 40)
    flat, tiling = Tiling(), Tiling(flips=True)
    for axes in ((0,), (1,), (0, 1)):
        plain, mirrored = (
            probability_maps_of(small_network, [i], tiling)[0] for i in (image, image.flip(axes))
        )
        torch.testing.assert_close(mirrored.flip(axes), plain, rtol=0, atol=1e-6)
    once = probability_maps_of(small_network, [image.flip(0)], flat)[0].flip(0)
    assert not torch.allclose(once, probability_maps_of(small_network, [image], flat)[0])


@pytest.mark.parametrize(
    "values", [{"tile": -1}, {"overlap": -1}, {"batch_size": 0}, {"tile": 100, "overlap": 51}]
)
def test_a_tiling_out_of_range_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"tiling|overlap"):
        Tiling(**values)
