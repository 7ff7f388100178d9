"""`Solver.inner_update`: the inner step for loops that look at the loss later."""

from __future__ import annotations

import copy
import math

import bilevel_zoo as zoo
import torch
from torch import Tensor, nn

from bilevel import GaussNewton, Solver


def test_it_is_the_inner_step() -> None:
    case = zoo.conv_net(dropout=0.0)
    twin = copy.deepcopy(case)
    first, second = (
        one.solver(torch.optim.AdamW(one.inner.parameters(), lr=0.05), GaussNewton()) for one in (case, twin)
    )
    for batch in case.train[:3]:
        loss = first.inner_update(batch)
        assert loss.shape == ()
        assert not loss.requires_grad
        assert float(loss) == second.inner_step(batch).inner_loss
    for mine, other in zip(case.inner.state_dict().values(), twin.inner.state_dict().values(), strict=True):
        assert torch.equal(mine, other)
    assert first.counts == second.counts


def test_gradients_and_moments_of_another_layout_than_their_parameter_s_are_put_right() -> None:
    """Fused optimisers take both as they lie in memory."""

    def trained(fused: bool, resumed: bool = False) -> Tensor:
        torch.manual_seed(0)
        inner, outer = nn.Conv2d(3, 4, 3).double(), nn.Linear(1, 1)
        inner.to(memory_format=torch.channels_last)
        target = torch.randn(4, 3, 3, 3).double()

        def loss(inner: nn.Conv2d, outer: nn.Linear, batch: Tensor) -> Tensor:
            flat = inner.weight.contiguous().flatten() - batch.flatten()
            return (flat.cos() * flat).sum() + inner.bias.sum() + 0 * outer.weight.sum()

        solver = Solver(
            loss,
            loss,
            inner=inner,
            outer=outer,
            inner_optimizer=torch.optim.AdamW(inner.parameters(), lr=0.1, fused=fused),
            outer_optimizer=torch.optim.SGD(outer.parameters(), lr=0.1),
            hypergradient=GaussNewton(),
        )
        for _ in range(3):
            solver.inner_update(target)
            if resumed:
                state = solver.state_dict()
                moments = state["inner_optimizer"]["state"]["0"]
                assert not moments["exp_avg"].is_contiguous()
                moments.update({name: value.contiguous() for name, value in moments.items()})  # as in files
                solver.load_state_dict(state)
        assert not inner.weight.is_contiguous()
        return inner.weight.detach()

    fused = trained(fused=True)
    torch.testing.assert_close(fused, trained(fused=False), rtol=1e-10, atol=1e-12)
    assert torch.equal(fused, trained(fused=True, resumed=True))


class Root(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))


def root_solver(start: float, **options: object) -> tuple[Root, Solver]:
    inner, outer = Root(), nn.Linear(1, 1)
    nn.init.constant_(inner.w, start)

    def loss(inner: Root, outer: nn.Linear, batch: Tensor) -> Tensor:
        return (inner.w.sqrt() * batch).sum() + 0 * outer.weight.sum()

    optimizer = torch.optim.SGD(inner.parameters(), lr=0.1)
    if options.pop("plateau", False):
        options["inner_scheduler"] = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.5, patience=0, threshold=0.0
        )
    solver = Solver(
        loss,
        loss,
        inner=inner,
        outer=outer,
        inner_optimizer=optimizer,
        outer_optimizer=torch.optim.SGD(outer.parameters(), lr=0.1),
        hypergradient=GaussNewton(),
        **options,  # type: ignore[arg-type]
    )
    return inner, solver


def test_a_loss_whose_gradient_is_not_finite_is_not_finite_itself() -> None:
    _, solver = root_solver(0.0)  # √0 is 0, and infinitely steep
    assert not math.isfinite(float(solver.inner_update(torch.ones(2))))
    _, solver = root_solver(-1.0)
    assert math.isnan(float(solver.inner_update(torch.ones(2))))


def test_a_scheduler_that_watches_the_loss_gets_it() -> None:
    _, solver = root_solver(1.0, plateau=True)
    solver.inner_update(torch.ones(2))
    assert solver.learning_rates()["inner/lr"] == 0.1
    solver.inner_update(2 * torch.ones(2))  # a larger loss
    assert solver.learning_rates()["inner/lr"] == 0.05
