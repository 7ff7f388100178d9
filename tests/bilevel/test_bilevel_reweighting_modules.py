"""Class weights, Meta-Weight-Net, soft labels and online re-weighting, against formulas and real training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bilevel_zoo import Case, central_differences, mlp, plain_loss, relative_error
from torch import Tensor, nn

import bilevel
from bilevel import ClassWeights, MetaWeightNet, OnlineReweighting, SoftLabels
from bilevel.errors import BatchError, LossError, NonFiniteLossError, OptionError


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)


def samples(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def case(outer: nn.Module, inner_loss: Any, steps: int, size: int = 7) -> Case:
    torch.manual_seed(0)
    train = [
        (torch.randn(size, 4, dtype=torch.float64), torch.randint(3, (size,)), torch.arange(size) + step)
        for step in range(steps)
    ]
    val = torch.randn(6, 4, dtype=torch.float64), torch.randint(3, (6,))
    return Case(inner_loss, plain_loss, mlp(4, 5, 3), outer.double(), train, val)


def unrolled_error(problem: Case, steps: int) -> float:
    """Relative error of the unrolled hypergradient against central differences of real training."""
    optimizer = sgd(problem.inner)
    found = problem.solver(optimizer, bilevel.Unrolled(steps)).hypergradient(
        bilevel.Batches(problem.train), problem.val
    )
    return relative_error(found, central_differences(problem, optimizer, steps))


def by_class(model: nn.Module, weights: nn.Module, batch: Any) -> Tensor:
    return (weights(batch[1]) * samples(model, batch)).mean()


def by_loss(model: nn.Module, weights: nn.Module, batch: Any) -> Tensor:
    losses = samples(model, batch)
    return (weights(losses) * losses).mean()


def by_label(model: nn.Module, labels: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), labels(batch[2]))


def test_class_weights() -> None:
    weights = ClassWeights(3)
    with torch.no_grad():
        weights.logits.copy_(torch.tensor([0.0, 1.0, 5.0]))
    raw = torch.tensor([0.0, 5.0, 0.0]).exp()
    torch.testing.assert_close(weights(torch.tensor([0, 2, 0])).detach(), raw / raw.mean())
    problem = case(weights, by_class, 3)
    assert unrolled_error(problem, 3) < 1e-6


def test_meta_weight_net_is_its_formula() -> None:
    torch.manual_seed(1)
    net = MetaWeightNet(4).double()
    losses = torch.tensor([0.1, 2.0, 7.0], dtype=torch.float64, requires_grad=True)
    w1, b1, w2, b2 = (p.detach() for p in net.parameters())
    for value, weight in zip(losses, net(losses), strict=True):
        expected = torch.sigmoid(w2 @ torch.relu(w1[:, 0] * value + b1) + b2)
        torch.testing.assert_close(weight, expected[0])
    assert sum(p.numel() for p in MetaWeightNet(64).parameters()) == 193
    assert net(losses).requires_grad
    assert torch.autograd.grad(net(losses).sum(), losses, allow_unused=True)[0] is None
    assert torch.autograd.gradcheck(MetaWeightNet(4, detach=False).double(), losses)
    scaled = MetaWeightNet(4, normalize="mean").double()(losses)
    assert scaled.mean().item() == pytest.approx(1)


def test_meta_weight_net_takes_narrower_losses_only() -> None:
    torch.manual_seed(1)
    net = MetaWeightNet(4)
    narrow = torch.tensor([0.1, 2.0, 7.0], dtype=torch.bfloat16)
    assert torch.equal(net(narrow), net(narrow.float()))
    with pytest.raises(BatchError, match=r"float64, and parameters of torch\.float32[\s\S]*double\(\)"):
        net(narrow.double())


def test_meta_weight_net_hypergradients() -> None:
    torch.manual_seed(2)
    assert unrolled_error(case(MetaWeightNet(6), by_loss, 1), 1) < 1e-6
    assert unrolled_error(case(MetaWeightNet(6, detach=False), by_loss, 3), 3) < 1e-6
    # As documented: with weights held constant in the inner gradient, more steps are an approximation.
    assert 1e-5 < unrolled_error(case(MetaWeightNet(6), by_loss, 3), 3) < 0.5


def test_meta_weight_net_learns_to_ignore_large_losses() -> None:
    torch.manual_seed(3)
    x = torch.randn(80, 4, dtype=torch.float64)
    truth = (x[:, 0] > 0).long()
    y = torch.where(torch.arange(80) < 24, 1 - truth, truth)
    model, net = mlp(4, 2), MetaWeightNet(16).double()
    solver = bilevel.Solver(
        by_loss,
        plain_loss,
        inner=model,
        outer=net,
        inner_optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        outer_optimizer=torch.optim.Adam(net.parameters(), lr=0.02),
        hypergradient=bilevel.Unrolled(steps=1),
    )
    for _ in range(60):
        solver.step((x, y, torch.arange(80)), (x[40:], truth[40:]))
    weights = net(samples(model, (x, y))).detach()
    assert weights[:24].mean() < 0.9 * weights[24:].mean()


def test_soft_labels_start_at_the_given_labels_and_can_be_corrected() -> None:
    labels = SoftLabels(torch.tensor([2, 0, 1]), 3, confidence=0.8)
    expected = torch.full((2, 3), 0.1)
    expected[0, 1] = expected[1, 2] = 0.8
    torch.testing.assert_close(labels(torch.tensor([2, 0])).detach(), expected)
    assert labels.hard().tolist() == [2, 0, 1]

    soft = SoftLabels(torch.randint(3, (9,)), 3)
    assert unrolled_error(case(soft, by_label, 3), 3) < 1e-6

    # One wrong label among eight: repeated outer steps move it to the class that the clean samples show.
    torch.manual_seed(0)
    x = torch.eye(2, dtype=torch.float64).repeat(4, 1)
    truth = torch.tensor([0, 1] * 4)
    given = truth.clone()
    given[0] = 1
    model, soft = mlp(2, 2), SoftLabels(given, 2, confidence=0.7).double()
    solver = bilevel.Solver(
        by_label,
        plain_loss,
        inner=model,
        outer=soft,
        inner_optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        outer_optimizer=torch.optim.Adam(soft.parameters(), lr=0.1),
        hypergradient=bilevel.Unrolled(steps=1),
    )
    for _ in range(30):
        solver.step((x, given, torch.arange(8)), (x, truth))
    assert soft.hard().tolist() == truth.tolist()


def test_online_weights_are_ren_s_closed_form() -> None:
    torch.manual_seed(4)
    model = mlp(4, 5, 3)
    train = torch.randn(8, 4, dtype=torch.float64), torch.randint(3, (8,))
    val = torch.randn(5, 4, dtype=torch.float64), torch.randint(3, (5,))
    before = [p.clone() for p in model.parameters()]

    def flat(loss: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])

    trusted = flat(samples(model, val).mean())
    products = torch.stack([trusted @ flat(samples(model, train)[i]) for i in range(8)])
    assert 0 < int((products > 0).sum()) < 8
    expected = products.clamp(min=0) / products.clamp(min=0).sum()

    reweight = OnlineReweighting(samples, lambda net, batch: samples(net, batch).mean(), model)
    torch.testing.assert_close(reweight(train, val), expected, rtol=1e-9, atol=1e-12)
    part = (train[0][-5:], train[1][-5:])
    small = products[-5:].clamp(min=0) / products[-5:].clamp(min=0).sum()
    torch.testing.assert_close(reweight(part, val), small, rtol=1e-9, atol=1e-12)  # a smaller last batch
    for p, q in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, q)
        assert p.grad is None

    harmful = OnlineReweighting(samples, lambda net, batch: -samples(net, batch).mean(), model)
    assert torch.equal(harmful(val, val), torch.zeros(5, dtype=torch.float64))


def test_online_weights_leave_batch_norm_and_dropout_alone() -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    reweight = OnlineReweighting(samples, lambda net, batch: samples(net, batch).mean(), model)
    batch = torch.randn(6, 3), torch.randint(2, (6,))
    rng = torch.get_rng_state()
    first = reweight(batch, batch)
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(reweight(batch, batch), first)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


def test_online_weights_refuse_what_they_cannot_weigh() -> None:
    model = mlp(2, 2)
    x, y = torch.randn(3, 2, dtype=torch.float64), torch.tensor([0, 1, 1])
    mean = OnlineReweighting(
        lambda net, b: samples(net, b).mean(), lambda net, b: samples(net, b).sum(), model
    )
    with pytest.raises(LossError, match=r"sample_loss.*\n.*shape \(\)"):
        mean((x, y), (x, y))
    broken = OnlineReweighting(samples, lambda net, b: samples(net, b).sum() * float("nan"), model)
    with pytest.raises(NonFiniteLossError, match="outer loss"):
        broken((x, y), (x, y))
    with pytest.raises(OptionError, match=r"model: not a torch.nn.Module\n  found: .*int"):
        OnlineReweighting(samples, plain_loss, 5)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="sample_loss: not callable"):
        OnlineReweighting(None, plain_loss, model)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: MetaWeightNet(0),
        lambda: MetaWeightNet(3, normalize="sum"),  # type: ignore[arg-type]
        lambda: ClassWeights(0),
        lambda: SoftLabels(torch.tensor([0, 1]), 2, confidence=0.5),
        lambda: SoftLabels(torch.tensor([0, 2]), 2),
        lambda: SoftLabels(torch.zeros(0, dtype=torch.long), 2),
    ],
)
def test_bad_options_are_refused(make: Any) -> None:
    with pytest.raises(OptionError):
        make()


def test_bad_batches_are_refused() -> None:
    with pytest.raises(BatchError, match="not a vector of numbers"):
        MetaWeightNet(3)(torch.zeros(()))
    with pytest.raises(BatchError, match="integers"):
        SoftLabels(torch.tensor([0, 1]), 2)(torch.zeros(2))
    with pytest.raises(BatchError, match="integers"):
        SoftLabels(torch.zeros(2), 2)
