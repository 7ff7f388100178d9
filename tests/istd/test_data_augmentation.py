from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from istd.data import AugmentSettings, augment
from istd.data import augmentation as module

ALWAYS = AugmentSettings(probability=1.0)


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> AugmentSettings:
    """Settings with which every crop gets exactly the named operations."""
    weights = {name: (1.0 if name in names else 1e-30) for name in module._OPERATIONS}
    monkeypatch.setattr(module, "_OPERATIONS", weights)
    return AugmentSettings(probability=1.0, num_operations=len(names))


def smooth_batch(count: int, side: int = 48, seed: int = 0) -> Tensor:
    """Soft spots on black, one per crop, away from the border."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side))
    centres = rng.uniform(side / 3, 2 * side / 3, (count, 2))
    spots = [np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 8) for cy, cx in centres]
    return torch.tensor(np.array(spots), dtype=torch.float32)[:, None]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_image_and_label_move_together() -> None:
    """With levels left alone, image and label stay equal through all geometry."""
    spots = smooth_batch(64)
    settings = AugmentSettings(probability=1.0, brightness=0, contrast=0, noise=(0, 0))
    image, label = augment(spots, spots.clone(), generator(), settings)
    assert torch.equal(image, label)
    moved = (image - spots).abs().amax((1, 2, 3)) > 0.05
    assert moved.float().mean() > 0.7


def test_bright_pixels_stay_under_the_label() -> None:
    spots = smooth_batch(64)
    image, label = augment(0.2 + 0.5 * spots, spots, generator(1), ALWAYS)
    for crop, mark in zip(image[:, 0], label[:, 0], strict=True):
        peak = np.unravel_index(int(mark.argmax()), mark.shape)
        brightest = np.unravel_index(int(crop.argmax()), crop.shape)
        assert np.hypot(peak[0] - brightest[0], peak[1] - brightest[1]) <= 2


def test_inputs_stay_and_values_stay_in_range() -> None:
    image, label = torch.rand(32, 1, 24, 24, generator=generator()), torch.rand(32, 1, 24, 24)
    copies = image.clone(), label.clone()
    outcome = augment(image, label, generator(), ALWAYS)
    assert torch.equal(image, copies[0])
    assert torch.equal(label, copies[1])
    for tensor in outcome:
        assert tensor.shape == (32, 1, 24, 24)
        assert tensor.dtype == torch.float32
        assert 0 <= tensor.min() <= tensor.max() <= 1


def test_half_of_the_crops_stay_as_they_are() -> None:
    image = torch.rand(400, 1, 9, 9, generator=generator())
    changed, _ = augment(image, image, generator(), None)
    same = (changed == image).all((1, 2, 3)).float().mean()
    # A few of the others draw blanks or a quarter turn of 0.
    assert 0.45 < same < 0.65
    nothing, _ = augment(image, image, generator(), AugmentSettings(probability=0))
    assert torch.equal(nothing, image)


def test_each_operation_comes_up_about_as_often_as_its_weight_says() -> None:
    chosen = module._choose(20000, generator(), ALWAYS)
    often = {name: flags.float().mean().item() for name, flags in chosen.items()}
    assert sum(often.values()) == pytest.approx(3, abs=1e-4)
    assert often["flip_vertical"] == pytest.approx(often["blank_2"], abs=0.02)
    assert 0.25 < often["flip_vertical"] < 0.35
    assert 0.1 < often["noise"] < 0.17


def test_same_generator_same_result_and_the_global_one_is_left_alone() -> None:
    image = torch.rand(16, 1, 20, 20, generator=generator())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = augment(image, image, generator(5), ALWAYS)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0], augment(image, image, generator(5), ALWAYS)[0])
    assert not torch.equal(first[0], augment(image, image, generator(6), ALWAYS)[0])


@pytest.mark.parametrize(
    ("operation", "number"),
    [("flip_vertical", 1), ("flip_horizontal", 1), ("transpose", 1), ("quarter_turns", 4)],
)
def test_lattice_operations_are_exact(monkeypatch: pytest.MonkeyPatch, operation: str, number: int) -> None:
    settings = only(monkeypatch, operation)
    image = torch.rand(1, 1, 7, 7, generator=generator()).expand(64, 1, 7, 7).contiguous()
    out, _ = augment(image, image, generator(), settings)
    first = image[0, 0]
    expected = {
        "flip_vertical": [first.flip(0)],
        "flip_horizontal": [first.flip(1)],
        "transpose": [first.T],
        "quarter_turns": [first.rot90(k) for k in range(4)],
    }[operation]
    seen = {k for crop in out[:, 0] for k, one in enumerate(expected) if torch.equal(crop, one)}
    assert all(any(torch.equal(crop, one) for one in expected) for crop in out[:, 0])
    assert len(seen) == number


def test_all_eight_symmetries_occur(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = only(monkeypatch, "transpose", "quarter_turns", "flip_vertical")
    image = torch.arange(9.0).div(8).view(1, 1, 3, 3).expand(80, 1, 3, 3).contiguous()
    out, _ = augment(image, image, generator(), settings)
    assert len({tuple(crop.flatten().tolist()) for crop in out}) == 4
    weights = {
        name: 1.0 if name in ("flip_vertical", "transpose", "quarter_turns") else 1e-30
        for name in module._OPERATIONS
    }
    monkeypatch.setattr(module, "_OPERATIONS", weights)
    mixed, _ = augment(image, image, generator(), AugmentSettings(probability=1.0, num_operations=1))
    more, _ = augment(image, image, generator(1), AugmentSettings(probability=1.0, num_operations=2))
    found = {tuple(crop.flatten().tolist()) for crop in torch.cat([mixed, more, out])}
    assert len(found) == 8


def spot_position(crop: Tensor) -> tuple[float, float]:
    total = crop.sum()
    rows = torch.arange(crop.shape[0]).float()
    return float((crop.sum(1) * rows).sum() / total), float((crop.sum(0) * rows).sum() / total)


def test_rotations_turn_about_the_centre_up_to_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = only(monkeypatch, "rotate")
    side = 65
    y, x = np.indices((side, side))
    spot = torch.tensor(np.exp(-((y - 20) ** 2 + (x - 32) ** 2) / 8), dtype=torch.float32)
    batch = spot.expand(60, 1, side, side).contiguous()
    out, _ = augment(batch, batch, generator(), settings)
    angles = []
    for crop in out[:, 0]:
        row, column = spot_position(crop)
        assert np.hypot(row - 32, column - 32) == pytest.approx(12, abs=0.1)
        angles.append(np.degrees(np.arctan2(column - 32, 32 - row)))
    assert max(np.abs(angles)) <= 45.5
    assert min(angles) < -30
    assert max(angles) > 30


def test_shifts_and_scales_stay_within_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = only(monkeypatch, "shift")
    side = 65
    y, x = np.indices((side, side))
    spot = torch.tensor(np.exp(-((y - 32) ** 2 + (x - 32) ** 2) / 18), dtype=torch.float32)
    batch = spot.expand(60, 1, side, side).contiguous()
    out, _ = augment(batch, batch, generator(), settings)
    moves = np.array([spot_position(crop) for crop in out[:, 0]]) - 32
    assert 4 < np.abs(moves).max() <= 6.5 + 0.05
    settings = only(monkeypatch, "scale")
    out, _ = augment(batch, batch, generator(), settings)
    ratio = (out.sum((1, 2, 3)) / spot.sum()).sqrt()
    assert 0.79 < ratio.min() < 0.87
    assert 1.13 < ratio.max() < 1.21
    centre = np.array([spot_position(crop) for crop in out[:, 0]])
    assert np.abs(centre - 32).max() < 0.02


def test_nothing_black_comes_in_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = only(monkeypatch, "rotate", "shift", "scale")
    flat = torch.full((40, 1, 31, 31), 0.6)
    out, _ = augment(flat, flat, generator(), settings)
    assert torch.allclose(out, flat, atol=1e-5)


def test_brightening_saturates_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = only(monkeypatch, "brightness", "contrast")
    image = 0.3 + 0.6 * torch.rand(200, 1, 8, 8, generator=generator())
    out, label = augment(image, image, generator(), settings)
    assert torch.equal(label, image)
    assert out.max() <= 1
    assert ((out >= 1 - 1e-6).sum((1, 2, 3)) <= 1).all()
    change = out.mean((1, 2, 3)) - image.mean((1, 2, 3))
    assert change.min() < -0.15
    assert change.max() > 0.02
    order = image.view(200, -1).argsort(1)
    assert (out.view(200, -1).gather(1, order).diff(dim=1) >= -1e-6).all()


def test_noise_has_its_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = only(monkeypatch, "noise")
    flat = torch.full((50, 1, 64, 64), 0.5)
    out, label = augment(flat, flat, generator(), settings)
    assert torch.equal(label, flat)
    sigma = (out - flat).std((1, 2, 3))
    assert 0.012 < sigma.min() < 0.017
    assert 0.023 < sigma.max() < 0.0285


def test_labels_keep_their_mass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small hard target turned by any angle covers as many pixels as before, in fractions."""
    settings = only(monkeypatch, "rotate")
    label = torch.zeros(60, 1, 33, 33)
    label[:, :, 14:17, 15:18] = 1
    _, out = augment(label, label, generator(), settings)
    assert torch.allclose(out.sum((1, 2, 3)), torch.tensor(9.0), atol=0.6)


def test_crops_that_do_not_match_are_refused() -> None:
    square = torch.zeros(1, 1, 4, 4)
    for image, label in ((square, torch.zeros(1, 1, 4, 5)), (torch.zeros(1, 1, 4, 5),) * 2):
        with pytest.raises(ValueError, match="squares"):
            augment(image, label, generator())
