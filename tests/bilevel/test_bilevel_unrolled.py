"""Unrolled hypergradients: adjoint = graph = higher = central differences of real training."""

from __future__ import annotations

import math
from typing import Any

import bilevel_zoo as zoo
import higher
import pytest
import torch
from torch import Tensor, nn

from bilevel import Batches, Unrolled, UpdateRule, hypergradient
from bilevel.errors import BatchError, OptionError


def by_higher(
    case: zoo.Case, optimizer: torch.optim.Optimizer, steps: int, batches: list[Any], seed: int
) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    settings = optimizer.param_groups[0]
    outer = dict(case.outer.named_parameters())
    with higher.innerloop_ctx(case.inner, optimizer, copy_initial_weights=True) as (model, inner):
        for step in range(steps):
            loss = case.inner_loss(model, case.outer, batches[step])
            if "betas" in settings:  # higher adds ε before the bias correction, torch after it
                eps = settings["eps"] * (1 - settings["betas"][1] ** (step + 1)) ** 0.5
                inner.step(loss, override={"eps": [eps]})
            else:
                inner.step(loss)
        grads = torch.autograd.grad(case.outer_loss(model, case.outer, case.val), list(outer.values()))
    return dict(zip(outer, grads, strict=True))


# A carried Adam state would cost higher 1e-5: it keeps torch's float32 step count.
@pytest.mark.parametrize(
    ("make", "warm"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.2), 2),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.02), 2),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.02), 2),
        (lambda p: torch.optim.Adam(p, lr=0.02), 0),
        (lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.1, amsgrad=True), 0),
    ],
    ids=["sgd", "momentum", "nesterov", "adam", "amsgrad"],
)
def test_adjoint_equals_graph_equals_higher_on_conv_net_with_batchnorm_and_dropout(
    make: zoo.Optimizer, warm: int
) -> None:
    case = zoo.conv_net()
    optimizer = make(case.inner.parameters())
    case.train_live(optimizer, warm)
    results = {}
    for mode in ("adjoint", "graph"):
        torch.manual_seed(7)
        results[mode] = hypergradient(
            case.problem(), Unrolled(4, mode=mode), Batches(case.train), case.val, optimizer=optimizer
        )
    expected = by_higher(case, optimizer, 4, case.train, seed=7)
    assert case.inner.training
    assert zoo.relative_error(results["adjoint"], results["graph"]) < 1e-9
    assert zoo.relative_error(results["adjoint"], expected) < 1e-9


@pytest.mark.parametrize("name", zoo.OPTIMIZERS)
@pytest.mark.parametrize("mode", ["adjoint", "graph"])
def test_equals_central_differences_of_real_training(name: str, mode: Any) -> None:
    case = zoo.reweighted_mlp()
    optimizer = zoo.OPTIMIZERS[name](case.inner.parameters())
    case.train_live(optimizer, 2)
    found = hypergradient(
        case.problem(), Unrolled(5, mode=mode), Batches(case.train), case.val, optimizer=optimizer
    )
    assert zoo.relative_error(found, zoo.central_differences(case, optimizer, 5)) < 1e-6


@pytest.mark.parametrize("name", ["momentum", "adamw"])
@pytest.mark.parametrize("mode", ["adjoint", "graph"])
def test_outer_loss_may_depend_on_outer_parameters_directly(name: str, mode: Any) -> None:
    case = zoo.direct()
    optimizer = zoo.OPTIMIZERS[name](case.inner.parameters())
    found = hypergradient(
        case.problem(), Unrolled(5, mode=mode), Batches(case.train), case.val, optimizer=optimizer
    )
    assert zoo.relative_error(found, zoo.central_differences(case, optimizer, 5)) < 1e-6


@pytest.mark.parametrize("name", ["adam", "adam_l2", "adamw", "amsgrad", "adam_maximize"])
@pytest.mark.parametrize("mode", ["adjoint", "graph"])
@pytest.mark.parametrize("warm", [0, 2])
def test_adam_family_is_exact_with_dead_relu_units(name: str, mode: Any, warm: int) -> None:
    case = zoo.dead_relu_mlp()
    optimizer = zoo.OPTIMIZERS[name](case.inner.parameters())
    case.train_live(optimizer, warm)
    zero = torch.autograd.grad(case.inner_loss(case.inner, case.outer, case.train[0]), case.inner[0].weight)[
        0
    ]
    assert int((zero == 0).sum()) >= 8  # the trap is there
    found = hypergradient(
        case.problem(), Unrolled(5, mode=mode), Batches(case.train), case.val, optimizer=optimizer
    )
    assert all(torch.isfinite(value).all() for value in found.values())
    assert zoo.relative_error(found, zoo.central_differences(case, optimizer, 5)) < 1e-7


@pytest.mark.parametrize("mode", ["adjoint", "graph"])
def test_batchnorm_and_dropout_in_train_mode_against_real_training(mode: Any) -> None:
    case = zoo.conv_net()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(3)
    found = hypergradient(
        case.problem(), Unrolled(4, mode=mode), Batches(case.train), case.val, optimizer=optimizer
    )
    assert zoo.relative_error(found, zoo.central_differences(case, optimizer, 4, seed=3)) < 1e-6


def test_running_statistics_evolve_along_the_unroll() -> None:
    case = zoo.conv_net(dropout=0.0)

    def outer_in_eval_mode(model: nn.Module, weights: nn.Module, batch: Any) -> Tensor:
        # The outer loss sees the running statistics that the inner steps have left.
        model.eval()
        loss = zoo.plain_loss(model, weights, batch)
        model.train()
        return loss

    case.outer_loss = outer_in_eval_mode
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    live = zoo.live_outer_loss(case, optimizer, {"logits": torch.zeros(3)}, 4)
    for mode in ("adjoint", "graph"):
        found = hypergradient(
            case.problem(), Unrolled(4, mode=mode), Batches(case.train), case.val, optimizer=optimizer
        )
        assert float(found.outer_loss) == pytest.approx(live, rel=1e-12)


def test_eval_mode_is_honoured() -> None:
    case = zoo.conv_net()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    case.train_live(optimizer, 2)
    case.inner.eval()
    found = hypergradient(case.problem(), Unrolled(4), Batches(case.train), case.val, optimizer=optimizer)
    assert not any(module.training for module in case.inner.modules())
    assert zoo.relative_error(found, zoo.central_differences(case, optimizer, 4)) < 1e-6


def test_dropout_is_drawn_anew_each_step_and_replayed() -> None:
    masks: list[Tensor] = []

    class Recorder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mask = torch.rand_like(x[0])
            masks.append(mask)
            return x * mask

    case = zoo.reweighted_mlp()
    case.inner.insert(1, Recorder())
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    before = torch.get_rng_state()
    hypergradient(case.problem(), Unrolled(4), case.train[0], case.val, optimizer=optimizer)
    # 3 steps without graph, the last step, the outer loss, and 3 steps taken again, last first.
    assert len(masks) == 8
    assert all(not torch.equal(masks[i], masks[j]) for i in range(5) for j in range(i))
    assert torch.equal(masks[5], masks[2])
    assert torch.equal(masks[6], masks[1])
    assert torch.equal(masks[7], masks[0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", ["adjoint", "graph"])
@pytest.mark.parametrize("name", ["nesterov", "adam"])
@pytest.mark.parametrize("truncate", [1, 3, 5])
def test_truncated_unroll_is_its_definition(mode: Any, name: str, truncate: int) -> None:
    case = zoo.reweighted_mlp()
    optimizer = zoo.OPTIMIZERS[name](case.inner.parameters())
    found = hypergradient(
        case.problem(), Unrolled(5, truncate, mode), Batches(case.train), case.val, optimizer=optimizer
    )
    expected = zoo.central_differences(case, optimizer, 5, from_step=5 - truncate)
    assert zoo.relative_error(found, expected) < 1e-6


def test_one_batch_is_used_at_each_step() -> None:
    case = zoo.reweighted_mlp()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    problem, batch = case.problem(), case.train[0]
    one = hypergradient(problem, Unrolled(3), batch, case.val, optimizer=optimizer)
    same = hypergradient(problem, Unrolled(3), Batches([batch] * 3), case.val, optimizer=optimizer)
    others = hypergradient(problem, Unrolled(3), Batches(case.train[:3]), case.val, optimizer=optimizer)
    assert torch.equal(one["logits"], same["logits"])
    assert zoo.relative_error(one, others) > 1e-3
    with pytest.raises(BatchError, match="2 batches for 3 steps"):
        hypergradient(problem, Unrolled(3), Batches(case.train[:2]), case.val, optimizer=optimizer)


def test_several_batches_in_one_step_are_averaged() -> None:
    case = zoo.reweighted_mlp()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    pair = Batches(case.train[:2])
    found = hypergradient(
        case.problem(), Unrolled(2), Batches([pair, pair]), Batches([case.val]), optimizer=optimizer
    )
    single = case.inner_loss
    case.inner_loss = lambda m, w, b: (single(m, w, case.train[0]) + single(m, w, case.train[1])) / 2
    expected = hypergradient(case.problem(), Unrolled(2), case.train[0], case.val, optimizer=optimizer)
    assert zoo.relative_error(found, expected) < 1e-12


@pytest.mark.parametrize("name", ["nesterov", "adam_l2", "amsgrad"])
@pytest.mark.parametrize("mode", ["adjoint", "graph"])
def test_parameters_used_at_some_steps_only(name: str, mode: Any) -> None:
    """Two heads take turns: as in torch.optim, the idle one keeps its value and its state."""
    case = zoo.reweighted_mlp()
    case.inner = nn.ModuleDict({"body": zoo.mlp(4, 5), "even": zoo.mlp(5, 3), "odd": zoo.mlp(5, 3)})

    def inner_loss(net: nn.ModuleDict, weights: nn.Module, batch: Any) -> Tensor:
        step, data = batch
        return zoo.weighted_loss(
            nn.Sequential(net["body"], net["odd" if step % 2 else "even"]), weights, data
        )

    case.inner_loss = inner_loss
    case.outer_loss = lambda net, weights, batch: (
        zoo.plain_loss(nn.Sequential(net["body"], net["even"]), weights, batch)
        + zoo.plain_loss(nn.Sequential(net["body"], net["odd"]), weights, batch)
    )
    case.train = list(enumerate(case.train))
    optimizer = zoo.OPTIMIZERS[name](case.inner.parameters())
    case.train_live(optimizer, 1)  # one head has a state to carry, the other has none
    found = hypergradient(
        case.problem(), Unrolled(5, mode=mode), Batches(case.train), case.val, optimizer=optimizer
    )
    assert zoo.relative_error(found, zoo.central_differences(case, optimizer, 5)) < 1e-6


class LearnedSGD(UpdateRule):
    """w ← w − exp(log_lr)·g, where log_lr is an outer parameter."""

    def init(self, params: Any) -> Any:
        return ()

    def update(self, params: Any, grads: Any, state: Any, outer: Any) -> Any:
        lr = outer["log_lr"].exp()
        return tuple(p if g is None else p - lr * g for p, g in zip(params, grads, strict=True)), state


def test_optimiser_settings_can_be_outer_parameters() -> None:
    case = zoo.reweighted_mlp()
    case.outer.register_parameter("log_lr", nn.Parameter(torch.tensor(-1.5, dtype=torch.float64)))
    problem = case.problem()
    results = [
        hypergradient(problem, Unrolled(4, mode=mode), case.train[0], case.val, optimizer=LearnedSGD())
        for mode in ("adjoint", "graph")
    ]
    assert zoo.relative_error(results[0], results[1]) < 1e-12

    def outer_loss(log_lr: float) -> float:
        optimizer = torch.optim.SGD(case.inner.parameters(), lr=math.exp(log_lr))
        shift = {name: torch.zeros_like(p) for name, p in case.outer.named_parameters()}
        one = zoo.Case(case.inner_loss, case.outer_loss, case.inner, case.outer, case.train[:1], case.val)
        return zoo.live_outer_loss(one, optimizer, shift, 4)

    slope = (outer_loss(-1.5 + 1e-4) - outer_loss(-1.5 - 1e-4)) / 2e-4
    assert float(results[0]["log_lr"]) == pytest.approx(slope, rel=1e-5)


def test_peak_graph_does_not_grow_with_steps() -> None:
    case = zoo.reweighted_mlp()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1, momentum=0.9)
    alive = peak = 0

    class Counted:
        """A tensor saved for backward that says when it goes."""

        def __init__(self, tensor: Tensor) -> None:
            nonlocal alive, peak
            self.tensor = tensor.detach()
            alive += 1
            peak = max(peak, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def measure(method: Unrolled) -> int:
        nonlocal peak
        peak = 0
        with torch.autograd.graph.saved_tensors_hooks(Counted, lambda counted: counted.tensor):
            hypergradient(case.problem(), method, case.train[0], case.val, optimizer=optimizer)
        assert alive == 0
        return peak

    assert measure(Unrolled(24)) <= measure(Unrolled(3))
    assert measure(Unrolled(24, mode="graph")) > 4 * measure(Unrolled(3, mode="graph"))


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"steps": 3, "truncate": 4}, {"steps": 3, "mode": "other"}]
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="Unrolled"):
        Unrolled(**options)
