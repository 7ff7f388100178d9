"""The compatibility hypergradient: golden case 08, and what it does to a whole method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bilevel
from istd.engine.methods.reference_update import ReferenceGaussNewton, ReferenceStep
from istd.losses import outer_loss


class Base(nn.Module):
    """The tiny network of the case; `unused` is there to be left alone by the loss."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(2))
        self.c1 = nn.Conv2d(3, 6, 3, padding=1)
        if norm:
            self.bn = nn.BatchNorm2d(6)
        self.c2 = nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c1(x)
        return self.c2(torch.tanh(self.bn(x) if hasattr(self, "bn") else x))


class Pair(nn.Module):
    """Teacher and student on one network: the teacher adds a level read from its own image."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.base = Base(norm)
        self.k = nn.Conv2d(3, 1, 1)

    def teacher(self, x: Tensor, other: Tensor) -> Tensor:
        return self.base(x) + self.k(other).mean((2, 3), keepdim=True)


def case_problem(
    case: dict[str, Any], eta: float
) -> tuple[Pair, nn.Module, bilevel.Solver, ReferenceStep, list]:
    def tensor(name: str) -> Tensor:
        return torch.from_numpy(np.array(case[name]))

    pair = Pair("w.base.bn.weight" in case)
    pair.load_state_dict({name[2:]: tensor(name) for name in case if name.startswith("w.")})
    weights = bilevel.ClusterWeights(len(case["alpha"]), normalize="detached_mean")
    weights.load_state_dict({"logits": tensor("alpha")})

    def loss(pair: Pair, weights: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        x, target, other, cluster = batch
        with torch.no_grad():
            teacher = pair.teacher(x, other)
        return outer_loss(pair.base(x), teacher, target, weights(cluster))

    outer = torch.optim.AdamW(weights.parameters(), lr=1e-3)
    solver = bilevel.Solver(
        loss, loss, inner=pair, outer=weights,
        inner_optimizer=torch.optim.AdamW(pair.parameters(), lr=1e-3), outer_optimizer=outer,
        hypergradient=ReferenceGaussNewton(lambda: eta),
    )  # fmt: skip
    step = ReferenceStep(solver, pair.base, (outer, torch.optim.AdamW(pair.base.parameters(), lr=1e-3)))
    names = "{0}_x {0}_y {0}_dino cluster_ids_{0}"
    batches = [[tensor(name) for name in names.format(split).split()] for split in ("train", "val")]
    batches = [(x, y[:, None], other, cluster) for x, y, other, cluster in batches]
    return pair, weights, solver, step, batches


def check(actual: Tensor, expected: np.ndarray, scale: float) -> None:
    """To 1e-5 of the largest entry of the whole direction: some entries are rounding of zero."""
    torch.testing.assert_close(actual, torch.from_numpy(expected), rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("kind", ["nobn", "bn"])
@pytest.mark.parametrize(("eta", "prefix"), [(1e-3, "new_dalpha"), (50.0, "new_dalpha_eta50")])
def test_the_update_is_the_public_code_s(
    golden: Callable[[str], dict[str, Any]], kind: str, eta: float, prefix: str
) -> None:
    case = golden(f"08_gn_bilevel_{kind}")
    pair, weights, solver, step, (train, val) = case_problem(case, eta)
    before = {name: value.clone() for name, value in pair.state_dict().items()}

    found = solver.hypergradient(train, val)
    assert found.outer_loss.item() == pytest.approx(float(case["outer_loss_val"]), rel=1e-6)
    assert found.inner_losses.item() == pytest.approx(float(case["outer_loss_train"]), rel=1e-6)
    student = {name: found.inner[f"base.{name}"] for name, _ in pair.base.named_parameters()}
    scale = max(value.abs().max().item() for value in student.values())
    check(found["logits"], case[f"{prefix}.alpha"], float(np.abs(case[f"{prefix}.alpha"]).max()))
    for name, value in student.items():
        check(value, case[f"{prefix}.student.{name}"], scale)
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())

    if prefix != "new_dalpha":
        return
    step(train, val)
    check(weights.logits.detach(), case["after_step.alpha"], 1.0)
    for name, parameter in pair.base.named_parameters():
        # Adam's first step is the sign of the gradient: meaningless where that is rounding of zero.
        sure = student[name].abs() > 1e-6 * scale if name != "unused" else torch.ones(2, dtype=torch.bool)
        check(parameter.detach()[sure], case[f"after_step.student.{name}"][sure.numpy()], 1.0)
    assert torch.equal(pair.k.weight, before["k.weight"]), "only the student moves"
    for name, buffer in pair.base.named_buffers():
        check(buffer, case[f"buffers_after.{name}"], 1.0)


def test_the_implicit_term_is_the_rank_one_one_with_the_other_sign() -> None:
    """Against `bilevel.GaussNewton` on the same lower loss: F_λ − (r − F_λ)·η, r the sound hypergradient."""
    torch.manual_seed(0)
    inner, outer = nn.Linear(3, 1).double(), nn.Linear(1, 1).double()

    def loss(inner: nn.Module, outer: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.mse_loss(outer(inner(batch[0])), batch[1])

    problem = bilevel.Problem(loss, loss, inner, outer)
    train, val = ((torch.randn(5, 3).double(), torch.randn(5, 1).double()) for _ in range(2))
    sound = bilevel.hypergradient(problem, bilevel.GaussNewton(eps=1e-12), train, val)
    direct = torch.autograd.grad(loss(inner, outer, val), list(outer.parameters()))
    found = bilevel.hypergradient(problem, ReferenceGaussNewton(lambda: 0.1), train, val)
    for value, name in zip(direct, found, strict=True):
        torch.testing.assert_close(found[name], value - 0.1 * (sound[name] - value))
