"""Training steps and an epoch of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from istd.engine.batches import TrainBatch, open_stream
from istd.engine.features import live_features
from istd.models import TeacherStudent, convert_reference_state_dict

from .sides import LR, Networks
from .timing import Contest

_SAME_LOSS = 1e-5
_SAME_STEP = 1e-3  # of a step's length: Adam divides gradients of rounding's size by their own size


def inner(sides: Networks) -> list[Contest]:
    """One step on the inner loss: frozen maps, losses, backward, AdamW."""
    same, default = sides.method(), sides.method(student_weight=1.0)
    contests = [Contest("inner step", lambda: same.train_step(sides.batch()))]
    if sides.reference is not None:
        contests[0].reference = _their_inner_step(sides)
        contests[0].check = lambda: _distance(_our_inner_loss(sides), _their_inner_loss(sides))
        contests[0].bound = _SAME_LOSS
    contests += [
        Contest(
            "inner step, student trained in it too",
            lambda: default.train_step(sides.batch()),
            note="the default of `--method semantic-prior`: more work than the reference's step",
            extra=True,
        ),
        Contest(
            "inner step, bfloat16 autocast",
            _autocast(sides),
            note="other arithmetic than the reference's",
            extra=True,
        ),
    ]
    return contests


def outer(sides: Networks) -> list[Contest]:
    """One step on the cluster weights: a training and a held-out batch, their frozen maps included."""
    count = sides.job["batch"]
    sound, faulty = sides.method(), sides.method(hypergradient="reference")
    contests = [
        Contest(
            "outer step",
            lambda: sound.outer_step(sides.batch(), sides.batch(count)),
            note="GaussNewton; what is equal is the outer loss: its direction is not the reference's",
        ),
        Contest(
            "outer step, `--hypergradient reference`",
            lambda: faulty.outer_step(sides.batch(), sides.batch(count)),
            note="the reference's own direction; equal are the cluster weights after a step",
        ),
    ]
    if sides.reference is not None:
        theirs = _their_outer_step(sides)
        for contest in contests:
            contest.reference = theirs
        contests[0].bound, contests[1].bound = _SAME_LOSS, _SAME_STEP
        contests[0].check = lambda: _distance(_our_outer_loss(sides), _their_outer_loss(sides))
        contests[1].check = lambda: _outer_step_distance(sides)
    return contests


def epoch(sides: Networks) -> list[Contest]:
    """Inner steps one after the other, with cropping and augmentation on our side."""
    steps = sides.job["epoch_steps"]
    method = sides.method()
    images = sides.images
    assert images.masks is not None
    stream = open_stream(
        "speed", method.config, images, images.masks, None, _clusters(sides), live_features(sides.vfm)
    )
    turn = iter(range(10**9))

    def ours() -> None:
        for _ in range(steps):
            method.train_step(stream.batch(next(turn)))

    contest = Contest(
        "a step of an epoch",
        ours,
        per=steps,
        note="ours makes and augments its batches; the reference finds them ready in memory",
    )
    if sides.reference is not None:
        contest.reference = _their_epoch(sides, steps)
    return [contest]


def _clusters(sides: Networks) -> Tensor:
    return torch.arange(len(sides.images), device=sides.device) % sides.clusters


def _their_inner_step(sides: Networks) -> Callable[[], float]:
    loss_of, optimizer = _their_inner(sides), sides.optimizer()

    def step() -> float:
        sides.teacher.train()
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _their_inner(sides: Networks) -> Callable[[], Tensor]:
    assert sides.reference is not None
    losses, batch = sides.reference.module("utils.losses"), sides.theirs()

    def loss() -> Tensor:
        image, label, _, dino, names = batch
        found: Tensor = losses.inner_loss(
            sides.student,
            sides.teacher,
            sides.alpha,
            image,
            label.unsqueeze(1),
            dino,
            names,
            sides.cluster_map,
            sides.device,
        )[0]
        return found

    return loss


def _their_inner_loss(sides: Networks) -> float:
    sides.teacher.train()
    return _their_inner(sides)().item()


def _our_inner_loss(sides: Networks) -> float:
    method = sides.method()
    method.model.train()
    return method.inner_loss(cast(TeacherStudent, method.model), method.weights, sides.batch()).item()


def _our_outer_loss(sides: Networks) -> float:
    method = sides.method()
    method.model.train()
    batch = sides.batch(sides.job["batch"])
    return method.outer_loss(cast(TeacherStudent, method.model), method.weights, batch).item()


def _their_outer_loss(sides: Networks) -> float:
    assert sides.reference is not None
    sides.teacher.train()
    found = sides.reference.module("utils.losses").outer_loss(
        sides.student,
        sides.teacher,
        sides.alpha,
        sides.theirs(sides.job["batch"]),
        sides.cluster_map,
        sides.device,
    )
    return float(found.item())


def _their_outer_step(sides: Networks) -> Callable[[], None]:
    assert sides.reference is not None
    train = sides.reference.module("train")
    lower, upper = sides.theirs(), sides.theirs(sides.job["batch"])
    model = train.ArchModelGN(sides.student, sides.teacher, sides.alpha, sides.cluster_map, sides.device)
    settings = type("Settings", (), {"arch_learning_rate": LR})
    architect, optimizer = train.Architect(model, settings), sides.optimizer()

    def step() -> None:
        sides.teacher.train()
        optimizer.zero_grad()
        architect.step(None, None, lower, None, upper, None, LR, optimizer, unrolled=True)

    return step


def _outer_step_distance(sides: Networks) -> float:
    """How far the cluster weights' parameters are apart after one step from the weights there are now.

    In steps' lengths: a first step of AdamW is about ± its rate in each coordinate.
    """
    kept = {name: value.clone() for name, value in sides.teacher.state_dict().items()}
    alpha = sides.alpha.detach().clone()
    method = sides.method(hypergradient="reference")
    model = cast(TeacherStudent, method.model)
    cnn = {name.removeprefix("base."): value for name, value in kept.items() if name.startswith("base.")}
    model.student.load_state_dict(convert_reference_state_dict(cnn))
    with torch.no_grad():
        method.weights.logits.copy_(alpha)
    method.outer_step(sides.batch(), sides.batch(sides.job["batch"]))
    _their_outer_step(sides)()
    distance = float((method.weights.logits - sides.alpha).abs().max()) / LR
    sides.teacher.load_state_dict(kept)
    with torch.no_grad():
        sides.alpha.copy_(alpha)
    return distance


def _their_epoch(sides: Networks, steps: int) -> Callable[[], object]:
    assert sides.reference is not None
    train = sides.reference.module("train")
    batches = [sides.theirs(sides.job["batch"] * number) for number in range(steps)]
    optimizer = sides.optimizer()

    def run() -> object:
        found: object = train.train_one_epoch(
            1,  # no outer steps in this one: they are a row of their own
            LR,
            batches,
            batches,
            sides.teacher,
            sides.student,
            sides.alpha,
            optimizer,
            None,
            sides.cluster_map,
            sides.device,
        )
        return found

    return run


def _autocast(sides: Networks) -> Callable[[], Tensor]:
    method = sides.method()

    def step() -> Tensor:
        with torch.autocast(sides.device.type, dtype=torch.bfloat16):
            batch: TrainBatch = sides.batch()
            return method.train_step(batch)

    return step


def _distance(one: float, other: float) -> float:
    return abs(one - other) / max(abs(other), 1e-12)
