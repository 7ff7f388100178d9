"""Boundary fractions: soft labels and their gradients, windows of targets, learning from trusted masks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import bilevel
from istd.data import SyntheticDataset, pack
from istd.engine import TrainConfig, Trainer, learned_labels
from istd.errors import ConfigError, DataError, LabelError
from istd.labels import ContrastSettings, calibrate, initialize
from istd.labels._pixel_problem import PixelTable
from istd.labels._target_windows import cut_masks, cut_targets
from istd.labels.boundary import BoundaryFractions, soft_boundary_label
from istd.labels.learn import LearnedBoundaries, LearnSettings, boundary_solver, learn_boundaries

QUICK = LearnSettings(warm_up=60, outer_steps=40, batch=12, outer_lr=0.1, prior_targets=1.0)


def scene(seed: int, fraction: dict[str, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(image, mask, points) with a faint small target and a bright large one, each cut at its fraction."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:72, :120]
    image, mask, points = np.full(y.shape, 50.0), np.zeros(y.shape, bool), []
    for kind, (peak, sigma), left in (("faint", (25.0, 1.5), 30), ("bright", (150.0, 3.0), 90)):
        center = (int(rng.integers(25, 47)), left + int(rng.integers(-8, 9)))
        share = np.exp(-((y - center[0]) ** 2 + (x - center[1]) ** 2) / (2 * sigma**2))
        image += (peak + rng.uniform(-4, 4)) * share
        mask |= share > fraction[kind]
        points.append(center)
    return np.rint(image + rng.normal(0, 0.5, image.shape)).astype(np.uint8), mask, np.array(points)


def world(faint: float, bright: float, count: int = 14) -> tuple[list[np.ndarray], ...]:
    scenes = [scene(seed, {"faint": faint, "bright": bright}) for seed in range(count)]
    return tuple(list(column) for column in zip(*scenes, strict=True))


def shown(masks: list[np.ndarray], trusted: int) -> list[np.ndarray | None]:
    return [mask if number < trusted else None for number, mask in enumerate(masks)]


# --- fractions and soft labels ---------------------------------------------------------------------------


def test_fractions_start_at_the_prior_and_the_pull_is_its_formula() -> None:
    fractions = BoundaryFractions(3, prior=0.2)
    torch.testing.assert_close(fractions.fractions(), torch.full((3,), 0.2))
    assert fractions.pull(5.0, 7.0).item() == pytest.approx(0.0, abs=1e-12)
    with torch.no_grad():
        fractions.shared.fill_(0.0)
        fractions.deviation.copy_(torch.tensor([0.0, 1.0, -1.0]))
    apart = torch.sigmoid(torch.tensor(1.0)) - 0.5
    assert fractions.pull(5.0, 7.0).item() == pytest.approx(5 * 0.3**2 + 7 * 2 * float(apart) ** 2)
    assert fractions(torch.tensor([[1, 0]])).shape == (1, 2)
    assert not BoundaryFractions(1).deviation.requires_grad


@pytest.mark.parametrize(("clusters", "prior"), [(0, 0.3), (2, 0.0), (2, 1.0)])
def test_impossible_fractions_are_refused(clusters: int, prior: float) -> None:
    with pytest.raises(ConfigError, match="fraction"):
        BoundaryFractions(clusters, prior)


def test_gradients_of_soft_labels_and_pull_are_central_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(4, 7, 7, generator=generator, dtype=torch.float64) * 100
    support = torch.rand(4, 7, 7, generator=generator) > 0.3
    fractions = BoundaryFractions(2, 0.3).double()
    low, high = torch.full((4,), 10.0).double(), torch.full((4,), 90.0).double()

    def total(shared: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
        given = {"shared": shared, "deviation": deviation}
        kind = torch.tensor([0, 1, 1, 0])
        chosen = torch.func.functional_call(fractions, given, (kind,))
        return soft_boundary_label(image, low, high, chosen, support).square().sum((1, 2))

    inputs = (fractions.shared.detach().clone(), torch.tensor([0.2, -0.4]).double())
    assert torch.autograd.gradcheck(total, [value.requires_grad_() for value in inputs])


def test_the_sharp_limit_is_the_region_of_contrast() -> None:
    images, _, points = world(0.3, 0.3, count=3)
    targets = cut_targets(images, points, ContrastSettings())
    assert len(targets) == 6
    for fraction in (0.15, 0.3, 0.6):
        settings = ContrastSettings(fraction=fraction)
        soft = soft_boundary_label(
            torch.from_numpy(targets.level).double(),
            torch.from_numpy(targets.background).double(),
            torch.from_numpy(targets.peak).double(),
            torch.full((6,), fraction).double(),
            torch.from_numpy(targets.support),
            softness=1e-6,
        )
        for one, (number, index) in zip(soft.numpy(), targets.owner.tolist(), strict=True):
            y, x = points[number][index]
            alone = initialize(images[number], points[number][[index]], "contrast", settings).mask
            window = alone[y - 16 : y + 17, x - 16 : x + 17]
            np.testing.assert_array_equal(one > 0.5, window > 0)


def test_windows_at_the_border_and_between_neighbours() -> None:
    image = np.full((40, 40), 20, np.uint8)
    image[0:3, 0:3] = 200
    image[0:3, 7:9] = 150
    points = np.array([[1, 1], [1, 7]])
    targets = cut_targets([image], [points], ContrastSettings())
    truth = cut_masks([image > 100], [points], targets)
    assert targets.owner.tolist() == [[0, 0], [0, 1]]
    assert not targets.counted[0][:15].any(), "rows above the image"
    assert not targets.counted[0][15:, 21:].any(), "columns nearer to the other point"
    assert (truth & targets.counted).sum(axis=(1, 2)).tolist() == [9, 6]
    assert not (targets.support & ~truth).any()
    assert len(cut_targets([np.full((40, 40), 20, np.uint8)], [points], ContrastSettings())) == 0


# --- learning --------------------------------------------------------------------------------------------


def test_the_hypergradient_is_that_of_finite_differences() -> None:
    images, masks, points = world(0.5, 0.3, count=6)
    targets = cut_targets(images, points, ContrastSettings())
    truth = cut_masks(masks, points, targets)
    kind = np.arange(len(targets)) % 2
    table = PixelTable.of(targets, truth, kind, torch.float64)
    fractions = BoundaryFractions(2).double()
    solver = boundary_solver(table, fractions, 4, replace(QUICK, unroll_steps=3))
    batches = bilevel.Batches([torch.tensor([4, 5, 6]), torch.tensor([7, 8, 9]), torch.tensor([6, 10, 11])])
    for _ in range(5):
        solver.inner_step(torch.tensor([4, 5, 8]))
    report = bilevel.check(solver, None, batches, torch.tensor([0, 1, 2, 3]))
    assert report.passed, report


def test_two_kinds_get_their_own_fractions_and_better_labels_than_one_calibrated() -> None:
    images, masks, points = world(0.6, 0.2)
    learned = learn_boundaries(
        images, points, shown(masks, 6), learning=replace(QUICK, clusters=2, deviation_targets=1.0)
    )
    assert learned.trusted_targets == (6, 6)
    faint, bright = learned.point_fractions(images[-1], points[-1])
    assert faint > 0.4
    assert bright < 0.28

    def iou(labels: list[np.ndarray]) -> float:
        truth = np.stack(masks[6:])
        found = np.stack(labels) > 0
        return float((truth & found).sum(axis=(1, 2)).sum() / (truth | found).sum())

    one = calibrate(images[:6], masks[:6], points[:6], prior_images=0).settings
    ours = iou([learned.initialize(*pair).mask for pair in zip(images[6:], points[6:], strict=True)])
    theirs = iou(
        [initialize(*pair, "contrast", one).mask for pair in zip(images[6:], points[6:], strict=True)]
    )
    assert ours > theirs + 0.02


def test_learning_repeats_bit_for_bit_and_leaves_the_random_state_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("it seeded all GPUs"))
    images, masks, points = world(0.5, 0.3, count=6)
    calls: list[tuple[int, int]] = []
    before = torch.random.get_rng_state()
    learning = replace(QUICK, warm_up=4, outer_steps=4, clusters=2)

    def learn(hypergradient: str = "unrolled", seed: int = 0) -> LearnedBoundaries:
        chosen = replace(learning, hypergradient=hypergradient, seed=seed)
        calls.clear()
        return learn_boundaries(
            images, points, shown(masks, 2), learning=chosen, progress=lambda *now: calls.append(now)
        )

    first = learn()
    assert calls == [(step, 8) for step in range(1, 9)]
    assert np.array_equal(first.history, learn().history)
    assert not np.array_equal(first.history, learn(seed=1).history)
    assert not np.array_equal(first.history, learn("implicit").history)
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.fractions == tuple(first.history[2:].mean(axis=0))


def test_what_cannot_be_learned_is_refused_with_what_to_do() -> None:
    images, masks, points = world(0.5, 0.3, count=3)
    with pytest.raises(DataError, match="trusted_masks=K"):
        learn_boundaries(images, points, [None, None, None], learning=QUICK)
    with pytest.raises(DataError, match="trust fewer masks"):
        learn_boundaries(images, points, list(masks), learning=QUICK)
    with pytest.raises(LabelError, match="mask 1 differs in size"):
        learn_boundaries(images, points, [None, masks[1][:-1], None], learning=QUICK)
    with pytest.raises(DataError, match="differ in number"):
        learn_boundaries(images, points, [masks[0]], learning=QUICK)
    with pytest.raises(ConfigError, match="unknown hypergradient"):
        LearnSettings(hypergradient="guess")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="too few"):
        LearnSettings(outer_steps=0)


# --- in a run --------------------------------------------------------------------------------------------


def test_a_run_starts_from_learned_fractions_keeps_them_and_does_not_learn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_pictures: None
) -> None:
    data, out = tmp_path / "data.h5", tmp_path / "run"
    pack(SyntheticDataset(num_train=8, num_val=2, num_test=2, size=(48, 48), seed=3), data)
    options = {"epochs": 2, "crop": 32, "batch_size": 4, "method": "pal", "device": "cpu"}
    config = TrainConfig(
        data=str(data), label_init="learned", trusted_masks=3, boundary_clusters=2, **options
    )
    quick = partial(LearnSettings, warm_up=5, outer_steps=4, batch=4)
    monkeypatch.setattr(learned_labels, "LearnSettings", quick)
    save = Trainer._save

    def stop_after(self: Trainer) -> None:
        save(self)
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", stop_after)
        with pytest.raises(RuntimeError, match="power cut"):
            Trainer(config, out, console=Console(quiet=True)).fit()
    monkeypatch.setattr(learned_labels, "learn_boundaries", None)  # calling it again would fail
    labels = Trainer(None, out, resume=True, console=Console(quiet=True)).fit()["labels"]
    assert labels["init"] == "learned"
    assert len(labels["settings"]["fractions"]) == 2
    assert labels["settings"]["fractions"] != [0.3, 0.3]
    assert sum(labels["settings"]["trusted_targets"]) >= 3
    assert labels["settings"]["learning"]["outer_steps"] == 4
    assert len(labels["trusted_masks"]) == 3


def test_the_learned_start_needs_trusted_masks() -> None:
    with pytest.raises(ConfigError, match="trusted_masks=K"):
        TrainConfig(data="x", label_init="learned")
    with pytest.raises(ConfigError, match="boundary_clusters"):
        TrainConfig(data="x", label_init="learned", trusted_masks=2, boundary_clusters=0)
