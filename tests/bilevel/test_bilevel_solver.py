"""Solver: the loop, non-finite numbers, optimisers at both levels."""

from __future__ import annotations

import copy
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
import torchopt
from torch import Tensor, nn

from bilevel import (
    Batches,
    ConjugateGradient,
    GaussNewton,
    Implicit,
    LinearSolveWarning,
    Unrolled,
)
from bilevel.errors import (
    BatchError,
    NonFiniteHypergradientError,
    NonFiniteLossError,
    OptionError,
    OwnershipError,
    UnsupportedOptimizerError,
)


def test_step_is_hypergradient_then_outer_update_then_inner_update() -> None:
    case = zoo.reweighted_mlp()
    optimizer = torch.optim.AdamW(case.inner.parameters(), lr=0.05)
    outer_optimizer = torch.optim.SGD(case.outer.parameters(), lr=2.0)
    solver = case.solver(optimizer, Unrolled(3), outer_optimizer=outer_optimizer)
    twin, twin_weights, twin_optimizer = copy.deepcopy((case.inner, case.outer, optimizer))
    before = case.outer.logits.detach().clone()
    slope = solver.hypergradient(case.train[0], case.val)
    assert torch.equal(case.outer.logits, before)

    info = solver.step(case.train[0], case.val)
    torch.testing.assert_close(case.outer.logits.detach(), before - 2.0 * slope["logits"])
    with torch.no_grad():
        twin_weights.logits.copy_(case.outer.logits)
    loss = case.inner_loss(twin, twin_weights, case.train[0])
    loss.backward()
    twin_optimizer.step()
    for mine, other in zip(case.inner.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert info.inner_loss == pytest.approx(loss.item())
    assert info.outer_loss == pytest.approx(float(slope.outer_loss))
    assert info.hypergradient_norm == pytest.approx(float(slope["logits"].norm()))
    assert len(info.unroll_losses) == 3
    assert info.inner_gradient_norm is not None
    assert info.inner_gradient_norm > 0
    assert info.skipped == ()
    assert info.linear_solves == ()
    assert min(info.seconds.hypergradient, info.seconds.outer, info.seconds.inner) > 0
    assert info.seconds.total < 60
    assert solver.counts == {"inner_steps": 1, "outer_steps": 1, "skipped": 0}


def test_single_steps_move_only_their_level() -> None:
    case = zoo.reweighted_mlp()
    solver = case.solver(torch.optim.SGD(case.inner.parameters(), lr=0.1), GaussNewton())
    inner, outer = copy.deepcopy((case.inner.state_dict(), case.outer.state_dict()))
    info = solver.outer_step(case.train[0], case.val)
    assert info.inner_loss is None
    assert info.linearization_gradient_norm is not None
    assert all(torch.equal(value, inner[name]) for name, value in case.inner.state_dict().items())
    assert not torch.equal(case.outer.logits, outer["logits"])
    outer = copy.deepcopy(case.outer.state_dict())
    info = solver.inner_step(case.train[0])
    assert info.hypergradient_norm is None
    assert torch.equal(case.outer.logits, outer["logits"])
    assert not torch.equal(case.inner[0].weight, inner["0.weight"])


def test_several_inner_steps_take_their_batches() -> None:
    case = zoo.reweighted_mlp()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1, momentum=0.9)
    solver = case.solver(optimizer, Unrolled(3), inner_steps=2)
    twin = zoo.Case(**{**vars(case), "inner": None})
    twin.inner, twin.outer, twin_optimizer = copy.deepcopy((case.inner, case.outer, optimizer))
    solver.step(Batches(case.train[:3]), case.val)
    twin.outer.load_state_dict(case.outer.state_dict())
    twin.train_live(twin_optimizer, 2)
    for mine, other in zip(case.inner.parameters(), twin.inner.parameters(), strict=True):
        assert torch.equal(mine, other)
    with pytest.raises(BatchError, match="inner_steps=4"):
        case.solver(optimizer, GaussNewton(), inner_steps=4).step(Batches(case.train[:3]), case.val)


def test_unroll_sees_the_dropout_that_training_will_see() -> None:
    case = zoo.conv_net()
    still = torch.optim.SGD(case.outer.parameters(), lr=0.0)
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1, momentum=0.9)
    solver = case.solver(optimizer, Unrolled(3), outer_optimizer=still, inner_steps=3)
    info = solver.step(Batches(case.train[:3]), case.val)
    later = solver.hypergradient(case.train[3], case.val)
    assert info.inner_loss == pytest.approx(info.unroll_losses[2], rel=1e-12)
    assert solver.inner_step(case.train[3]).inner_loss == pytest.approx(
        float(later.inner_losses[0]), rel=1e-12
    )


def test_learns_to_trust_the_clean_cluster() -> None:
    torch.manual_seed(0)
    case = zoo.reweighted_mlp()
    rule = torch.randn(4, 3).double()

    def batch(size: int) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn(size, 4).double()
        y, cluster = (x @ rule).argmax(1), torch.arange(size) % 3
        return x, torch.where(cluster == 2, (y + 1) % 3, y), cluster  # cluster 2 is mislabelled

    with torch.no_grad():
        case.outer.logits.zero_()
    solver = case.solver(
        torch.optim.SGD(case.inner.parameters(), lr=0.3, momentum=0.9),
        Unrolled(3),
        outer_optimizer=torch.optim.Adam(case.outer.parameters(), lr=0.05),
    )
    losses = []
    for _ in range(60):
        x, y, cluster = batch(60)
        val = (x[cluster != 2], y[cluster != 2])
        losses.append(solver.step(batch(60), val).outer_loss)
    assert losses[-1] < 0.5 * losses[0]
    weights = case.outer(torch.arange(3)).detach()
    assert float(weights[2]) < 0.6 < 1.1 < min(float(weights[0]), float(weights[1]))


def test_existing_gradients_survive_and_are_not_applied() -> None:
    case = zoo.reweighted_mlp()
    case.inner[2].bias.requires_grad_(False)
    parameters = [*case.inner.parameters(), *case.outer.parameters()]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e6)
    grads = [parameter.grad for parameter in parameters]
    frozen = case.inner[2].bias.detach().clone()
    solver = case.solver(torch.optim.SGD(case.inner.parameters(), lr=0.1), Unrolled(2))
    solver.step(case.train[0], case.val)
    assert all(parameter.grad is grad for parameter, grad in zip(parameters, grads, strict=True))
    assert all(bool((grad == 1e6).all()) for grad in grads)
    assert torch.equal(case.inner[2].bias, frozen)
    assert all(float(p.detach().abs().max()) < 100 for p in parameters)


class Poison(nn.Module):
    """Finite loss, infinite slope in λ: √0."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, cluster: Tensor) -> Tensor:
        return 1 + self.value.sqrt()


@pytest.mark.parametrize("method", [Unrolled(2), Unrolled(2, mode="graph"), GaussNewton()])
def test_non_finite_hypergradient_never_reaches_the_parameters(method: Any) -> None:
    case = zoo.reweighted_mlp()
    case.outer = Poison()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    solver = case.solver(optimizer, method)
    for call in (solver.step, solver.outer_step, solver.hypergradient):
        with pytest.raises(NonFiniteHypergradientError, match="value"):
            call(case.train[0], case.val)
    assert case.outer.value.item() == 0
    assert solver.counts["skipped"] == 0

    outer_optimizer = torch.optim.Adam(case.outer.parameters(), lr=0.1)
    solver = case.solver(optimizer, method, outer_optimizer=outer_optimizer, on_nonfinite="skip")
    before = case.inner[0].weight.detach().clone()
    info = solver.step(case.train[0], case.val)
    assert case.outer.value.item() == 0
    assert not outer_optimizer.state
    assert len(info.skipped) == 1
    assert "not finite" in info.skipped[0]
    assert not torch.equal(case.inner[0].weight, before)  # the inner step is sound and was taken
    assert solver.step(case.train[0], case.val).skipped_total == 2
    assert solver.counts == {"inner_steps": 2, "outer_steps": 0, "skipped": 2}
    assert not torch.isfinite(solver.hypergradient(case.train[0], case.val)["value"])


def test_non_finite_losses_are_named() -> None:
    case = zoo.direct()
    solver = case.solver(torch.optim.SGD(case.inner.parameters(), lr=1e200), Unrolled(4))
    with pytest.raises(NonFiniteLossError, match=r"inner_loss \(.*inner\)(.|\n)*at step [123] of 4"):
        solver.step(case.train[0], case.val)
    case = zoo.reweighted_mlp()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    inner = case.inner_loss
    case.inner_loss = lambda *args: inner(*args) * float("nan")
    before = copy.deepcopy(case.inner.state_dict())
    solver = case.solver(optimizer, GaussNewton())
    with pytest.raises(NonFiniteLossError, match="inner_loss"):
        solver.inner_step(case.train[0])
    solver = case.solver(optimizer, GaussNewton(), on_nonfinite="skip")
    info = solver.step(case.train[0], case.val)
    assert len(info.skipped) == 2
    assert info.skipped_total == 2
    assert all(torch.equal(value, before[name]) for name, value in case.inner.state_dict().items())
    case.inner_loss, outer = inner, case.outer_loss
    case.outer_loss = lambda *args: outer(*args) / 0
    with pytest.raises(NonFiniteLossError, match="outer_loss"):
        case.solver(optimizer, GaussNewton()).step(case.train[0], case.val)


def test_a_skipped_inner_step_leaves_running_statistics_alone() -> None:
    case = zoo.conv_net()
    solver = case.solver(torch.optim.SGD(case.inner.parameters(), lr=0.1), GaussNewton(), on_nonfinite="skip")
    solver.inner_step(case.train[0])
    before = copy.deepcopy(case.inner.state_dict())
    x, y, cluster = case.train[1]
    info = solver.inner_step((x / 0, y, cluster))
    assert info.skipped_total == 1
    assert all(torch.equal(value, before[name]) for name, value in case.inner.state_dict().items())


def test_optimisers_must_own_their_level() -> None:
    case = zoo.reweighted_mlp()
    inner, outer = list(case.inner.parameters()), list(case.outer.parameters())
    sgd = torch.optim.SGD
    with pytest.raises(OwnershipError, match=r"inner_optimizer \(SGD\)(.|\n)*2\.weight"):
        case.solver(sgd(inner[:2], lr=0.1), GaussNewton())
    with pytest.raises(OwnershipError, match="one optimiser"):
        case.solver(sgd([*inner, *outer], lr=0.1), GaussNewton())
    with pytest.raises(OwnershipError, match="outer_optimizer"):
        case.solver(sgd(inner, lr=0.1), GaussNewton(), outer_optimizer=sgd(inner, lr=0.1))
    case.inner[2].requires_grad_(False)
    case.solver(sgd(inner[:2], lr=0.1), GaussNewton())  # frozen parameters need no optimiser


def test_optimisers_that_cannot_be_unrolled_serve_methods_that_do_not_unroll() -> None:
    case = zoo.reweighted_mlp()
    optimizer = torch.optim.Adafactor(case.inner.parameters(), lr=0.01)
    with pytest.raises(UnsupportedOptimizerError, match="Adafactor"):
        case.solver(optimizer, Unrolled(1))
    case.solver(optimizer, GaussNewton()).step(case.train[0], case.val)
    with pytest.raises(UnsupportedOptimizerError, match="LBFGS"):
        case.solver(torch.optim.LBFGS(case.inner.parameters()), GaussNewton())
    with pytest.raises(UnsupportedOptimizerError, match="not an optimiser"):
        case.solver("adam", GaussNewton())


def test_unroll_of_a_torchopt_optimiser_starts_from_its_live_state() -> None:
    results = []
    for functional in (True, False):
        case = zoo.reweighted_mlp()
        live = torch.optim.SGD(case.inner.parameters(), lr=0.1, momentum=0.9)
        solver = case.solver(torchopt.sgd(0.1, momentum=0.9) if functional else live, Unrolled(3))
        for step in range(3):
            solver.step(case.train[step], case.val)
        results.append(case.outer.logits.detach().clone())
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-14)


def test_functional_optimisers_want_the_same_parameters_throughout() -> None:
    case = zoo.reweighted_mlp()
    solver = case.solver(torchopt.sgd(0.1), Unrolled(1))
    case.inner[0].requires_grad_(False)
    with pytest.raises(OwnershipError, match="changed"):
        solver.step(case.train[0], case.val)
    with pytest.raises(OwnershipError, match="changed"):
        solver.inner_step(case.train[0])
    case.inner[0].requires_grad_(True)
    case.inner[2].requires_grad_(False)
    solver = case.solver(torchopt.sgd(0.1), GaussNewton())
    case.inner.requires_grad_(True)[0].requires_grad_(False)  # as many, but others
    with pytest.raises(OwnershipError, match="changed"):
        solver.inner_step(case.train[0])


def test_linear_solver_reports_are_in_the_info() -> None:
    case = zoo.reweighted_mlp()
    solver = case.solver(
        torch.optim.SGD(case.inner.parameters(), lr=0.1), Implicit(ConjugateGradient(max_iterations=50))
    )
    with pytest.warns(LinearSolveWarning, match="negative curvature"):
        info = solver.step(case.train[0], case.val)
    (report,) = info.linear_solves
    assert report.negative_curvature
    assert report.iterations >= 1
    assert info.linearization_gradient_norm is not None


@pytest.mark.parametrize(
    "options",
    [{"on_nonfinite": "ignore"}, {"inner_steps": 0}, {"method": Unrolled}, {"method": "unrolled"}],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    case = zoo.reweighted_mlp()
    method = options.pop("method", GaussNewton())
    with pytest.raises(OptionError):
        case.solver(torch.optim.SGD(case.inner.parameters(), lr=0.1), method, **options)


def test_a_thawed_parameter_that_the_optimiser_does_not_hold_is_named() -> None:
    case = zoo.reweighted_mlp()
    case.inner[2].requires_grad_(False)
    solver = case.solver(torch.optim.SGD(case.inner[0].parameters(), lr=0.1), GaussNewton())
    solver.step(case.train[0], case.val)
    case.inner[2].requires_grad_(True)
    with pytest.raises(OwnershipError, match=r"requires a gradient now(.|\n)*\(3, 6\), \(3,\)"):
        solver.inner_step(case.train[0])
    assert case.inner[2].weight.grad is None
    solver.inner_optimizer.add_param_group({"params": case.inner[2].parameters()})
    before = case.inner[2].weight.detach().clone()
    solver.step(case.train[0], case.val)
    assert not torch.equal(case.inner[2].weight, before)
