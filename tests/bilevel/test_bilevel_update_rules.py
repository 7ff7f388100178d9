"""Update rules: equal to the live optimiser step by step, with carried state and settings by group."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
import torchopt
from torch import Tensor

from bilevel import Batches, TorchoptRule, Unrolled, from_torch, hypergradient, supported_optimizers
from bilevel.errors import OwnershipError, UnsupportedOptimizerError


def parameters() -> list[torch.nn.Parameter]:
    torch.manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((3, 2), (4,), (2,))]


def gradients(step: int) -> list[Tensor | None]:
    """The last parameter has no gradient at every other step, the first has an entry that is always 0."""
    torch.manual_seed(100 + step)
    grads: list[Tensor | None] = [torch.randn(s, dtype=torch.float64) for s in ((3, 2), (4,), (2,))]
    assert grads[0] is not None
    grads[0][0, 0] = 0
    if step % 2:
        grads[2] = None
    return grads


def live_step(optimizer: torch.optim.Optimizer, held: list[torch.nn.Parameter], step: int) -> None:
    for parameter, grad in zip(held, gradients(step), strict=True):
        parameter.grad = grad
    optimizer.step()


@pytest.mark.parametrize("name", zoo.OPTIMIZERS)
@pytest.mark.parametrize("warm", [0, 3])
@pytest.mark.parametrize("differentiate", [False, True])
def test_rule_moves_parameters_as_the_live_optimiser_does(name: str, warm: int, differentiate: bool) -> None:
    held = parameters()
    optimizer = zoo.OPTIMIZERS[name](held)
    for step in range(warm):
        live_step(optimizer, held, step)
    rule = from_torch(optimizer)
    params: tuple[Tensor, ...] = tuple(p.detach().clone().requires_grad_(differentiate) for p in held)
    state = rule.init(params)
    for step in range(warm, warm + 4):
        live_step(optimizer, held, step)  # the rule is a snapshot: the live steps must not reach it
        params, state = rule.update(params, gradients(step), state, {})
        for mine, live in zip(params, held, strict=True):
            torch.testing.assert_close(mine.detach(), live.detach(), rtol=1e-14, atol=1e-15)


def test_rule_keeps_settings_of_each_group() -> None:
    held = parameters()
    optimizer = torch.optim.SGD(
        [{"params": held[:1], "lr": 0.5}, {"params": held[1:], "momentum": 0.9}], lr=0.1
    )
    rule = from_torch(optimizer, [held[2], held[0], held[1]])
    params = tuple(p.detach().clone() for p in (held[2], held[0], held[1]))
    state = rule.init(params)
    for step in (0, 2, 4):
        live_step(optimizer, held, step)
        grads = gradients(step)
        params, state = rule.update(params, [grads[2], grads[0], grads[1]], state, {})
    torch.testing.assert_close(params[1], held[0].detach(), rtol=1e-14, atol=0)
    torch.testing.assert_close(params[0], held[2].detach(), rtol=1e-14, atol=0)


def test_unroll_ends_where_real_training_ends_with_groups_and_scheduler() -> None:
    case = zoo.reweighted_mlp()
    optimizer = torch.optim.AdamW(
        [{"params": case.inner[0].parameters(), "lr": 0.01}, {"params": case.inner[2].parameters()}], lr=0.05
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    case.train_live(optimizer, 2)
    scheduler.step()
    found = hypergradient(case.problem(), Unrolled(5), Batches(case.train), case.val, optimizer=optimizer)
    live = zoo.live_outer_loss(case, optimizer, {"logits": torch.zeros(3)}, 5)
    assert float(found.outer_loss) == pytest.approx(live, rel=1e-13)
    assert zoo.relative_error(found, zoo.central_differences(case, optimizer, 5)) < 1e-6


def test_live_state_is_not_touched_by_update() -> None:
    held = parameters()
    optimizer = torch.optim.Adam(held, lr=0.1)
    live_step(optimizer, held, 0)
    before = copy.deepcopy(optimizer.state_dict())
    rule = from_torch(optimizer, copy=False)
    params = tuple(p.detach() for p in held)
    rule.update(params, gradients(0), rule.init(params), {})
    for index, state in before["state"].items():
        for key, value in state.items():
            assert torch.equal(value, optimizer.state_dict()["state"][index][key])


class MySGD(torch.optim.SGD):
    """A subclass, whose step may be anything."""


@pytest.mark.parametrize("make", [torch.optim.Rprop, torch.optim.Adafactor, MySGD])
def test_unsupported_optimisers_are_refused_by_name(make: Any) -> None:
    optimizer = make(parameters(), lr=0.1)
    with pytest.raises(UnsupportedOptimizerError) as caught:
        from_torch(optimizer)
    assert type(optimizer).__name__ in str(caught.value)
    for name in supported_optimizers():
        assert name in str(caught.value)


def test_torch_like_torchopt_optimiser_is_refused() -> None:
    case = zoo.reweighted_mlp()
    with pytest.raises(UnsupportedOptimizerError, match=r"torchopt\.adam\(1e-3\)"):
        hypergradient(
            case.problem(),
            Unrolled(1),
            case.train[0],
            case.val,
            optimizer=torchopt.Adam(case.inner.parameters(), lr=0.1),
        )


def test_foreign_parameter_is_refused() -> None:
    held = parameters()
    with pytest.raises(OwnershipError, match="no parameter group"):
        from_torch(torch.optim.SGD(held[:2], lr=0.1), held)


def test_supported_optimisers_are_those_documented() -> None:
    assert {"torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD"} <= set(supported_optimizers())


@pytest.fixture
def double_by_default() -> Iterator[None]:
    """torchopt computes Adam's bias correction in the default type, which costs 1e-5 in float32."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


TRANSFORMATIONS = {
    "sgd": (lambda: torchopt.sgd(0.1, momentum=0.9, weight_decay=0.01), zoo.OPTIMIZERS["momentum"]),
    "adam": (lambda: torchopt.adam(0.02), zoo.OPTIMIZERS["adam"]),
    "adamw": (lambda: torchopt.adamw(0.02, weight_decay=0.1), zoo.OPTIMIZERS["adamw"]),
}


@pytest.mark.parametrize("mode", ["adjoint", "graph"])
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_torchopt_transformations_are_exact_even_with_dead_units(
    name: str, mode: Any, double_by_default: None
) -> None:
    case = zoo.dead_relu_mlp()
    make_transformation, make_torch = TRANSFORMATIONS[name]
    optimizer = make_torch(case.inner.parameters())
    if name == "sgd":
        optimizer.param_groups[0]["weight_decay"] = 0.01
    found = hypergradient(
        case.problem(), Unrolled(5, mode=mode), Batches(case.train), case.val, optimizer=make_transformation()
    )
    assert zoo.relative_error(found, zoo.central_differences(case, optimizer, 5)) < 1e-7


@pytest.mark.parametrize(
    "make",
    [
        lambda: torchopt.rmsprop(0.01, momentum=0.5),
        lambda: torchopt.adagrad(0.1),
        lambda: torchopt.adamax(0.02),
        lambda: torchopt.chain(torchopt.clip_grad_norm(0.1), torchopt.sgd(0.1, momentum=0.9)),
        lambda: torchopt.sgd(lambda count: 0.1 / (1.0 + count), momentum=0.9),
    ],
    ids=["rmsprop", "adagrad", "adamax", "clip", "schedule"],
)
def test_modes_agree_for_other_torchopt_transformations(make: Any) -> None:
    case = zoo.reweighted_mlp()
    found = [
        hypergradient(
            case.problem(), Unrolled(4, mode=mode), Batches(case.train[:4]), case.val, optimizer=make()
        )
        for mode in ("adjoint", "graph")
    ]
    assert all(torch.isfinite(value).all() for value in found[0].values())
    assert zoo.relative_error(found[0], found[1]) < 1e-9


@pytest.mark.parametrize("mode", ["adjoint", "graph"])
def test_entry_whose_gradients_were_all_zero_counts_as_constant(mode: Any) -> None:
    """G = Σ λw² at λ = (0, 0.3): the first gradient is 0 though it depends on λ, with a slope of 1/ε."""
    scale = zoo.Scale(2)
    with torch.no_grad():
        scale.log.copy_(torch.tensor([0.0, 0.3]))
    model = torch.nn.Linear(2, 1, bias=False).double()
    case = zoo.Case(
        lambda net, lam, batch: (lam.log * net.weight[0].square()).sum(),
        lambda net, lam, batch: net.weight[0].square().sum(),
        model,
        scale,
        [None],
        None,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    found = hypergradient(case.problem(), Unrolled(3, mode=mode), None, None, optimizer=optimizer)
    assert found["log"][0] == 0
    assert 0 < abs(float(found["log"][1])) < 1


def test_torchopt_momentum_is_a_pure_function_here() -> None:
    rule = TorchoptRule(torchopt.sgd(0.1, momentum=0.9))
    params = tuple(p.detach() for p in parameters())
    grads = gradients(0)
    state = rule.update(params, grads, rule.init(params), {})[1]
    first, again = (rule.update(params, grads, state, {})[0] for _ in range(2))
    for a, b, p, g in zip(first, again, params, grads, strict=True):
        assert torch.equal(a, b)
        assert g is not None
        torch.testing.assert_close(a, p - 0.1 * 1.9 * g)
