"""Interpolation by matrix products, as GPUs do it where kernels have to be repeatable."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from istd.models._upsampling import bilinear, bilinear_by_products

SIZES = [((3, 5), (6, 10)), ((1, 4), (5, 4)), ((6, 7), (3, 1)), ((4, 4), (7, 9))]


def torchs(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("given", "wanted"), SIZES)
def test_products_interpolate_as_torch_does(
    given: tuple[int, int], wanted: tuple[int, int], align_corners: bool
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, *given, dtype=torch.float64, requires_grad=True)
    pull = torch.randn(2, 3, *wanted, dtype=torch.float64)
    found = bilinear_by_products(x, wanted, align_corners=align_corners)
    expected = torchs(x, wanted, align_corners)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad((value * pull).sum(), x)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-12)
    assert torch.equal(bilinear(x, wanted, align_corners=align_corners), expected)


def test_products_keep_type_and_layout_and_can_be_differentiated_twice() -> None:
    x = torch.randn(2, 4, 3, 3, requires_grad=True).to(memory_format=torch.channels_last)
    found = bilinear_by_products(x, (6, 6), align_corners=True)
    assert found.dtype is torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, torchs(x, (6, 6), True), rtol=1e-5, atol=1e-6)
    (slope,) = torch.autograd.grad(found.pow(3).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert curvature.abs().max() > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = bilinear_by_products(x.bfloat16(), (6, 6), align_corners=True)
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), found, rtol=0.03, atol=0.03)
