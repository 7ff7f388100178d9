"""The other torch.optim optimisers as rules: the live step, per-group settings, exact hypergradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
import torchopt
from torch import Tensor, nn

import bilevel
from bilevel import Batches, Unrolled, from_torch, hypergradient, supported_optimizers
from bilevel.errors import UnsupportedOptimizerError

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.02, weight_decay=0.05),
    "adamax_maximize": lambda p: torch.optim.Adamax(p, lr=0.01, betas=(0.5, 0.8), maximize=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9),
    "rmsprop_centered": lambda p: torch.optim.RMSprop(
        p, lr=0.01, alpha=0.8, momentum=0.5, centered=True, weight_decay=0.02
    ),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, lr_decay=0.1, weight_decay=0.02),
    "adagrad_start": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.3),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0, rho=0.8, eps=1e-3, weight_decay=0.02),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.02, betas=(0.9, 0.8), weight_decay=0.05),
    "radam_decoupled": lambda p: torch.optim.RAdam(
        p, lr=0.02, weight_decay=0.05, decoupled_weight_decay=True
    ),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.02, weight_decay=0.05),
    "nadam_decoupled": lambda p: torch.optim.NAdam(
        p, lr=0.02, weight_decay=0.05, decoupled_weight_decay=True, maximize=True
    ),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.1, lambd=0.1, weight_decay=0.02, t0=1),
}
SHAPES = ((3, 2), (4,), (2,))


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(1)
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in SHAPES]


def gradients(step: int) -> list[Tensor | None]:
    """The last parameter has no gradient at every other step, the first an entry that is always 0."""
    torch.manual_seed(100 + step)
    grads: list[Tensor | None] = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
    assert grads[0] is not None
    grads[0][0, 0] = 0
    if step % 2:
        grads[2] = None
    return grads


def live_step(optimizer: torch.optim.Optimizer, held: list[nn.Parameter], step: int) -> None:
    for parameter, grad in zip(held, gradients(step), strict=True):
        parameter.grad = grad
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("warm", [0, 3])
@pytest.mark.parametrize("differentiate", [False, True])
def test_rule_moves_parameters_as_the_live_optimiser_does(name: str, warm: int, differentiate: bool) -> None:
    held = parameters()
    optimizer = OPTIMIZERS[name](held)
    for step in range(warm):
        live_step(optimizer, held, step)
    rule = from_torch(optimizer)
    params: tuple[Tensor, ...] = tuple(p.detach().clone().requires_grad_(differentiate) for p in held)
    state = rule.init(params)
    for step in range(warm, warm + 6):
        live_step(optimizer, held, step)  # the rule is a snapshot: the live steps must not reach it
        params, state = rule.update(params, gradients(step), state, {})
        for mine, live in zip(params, held, strict=True):
            torch.testing.assert_close(mine.detach(), live.detach(), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_hypergradient_is_that_of_real_training_with_dead_units_and_carried_state(name: str) -> None:
    case = zoo.dead_relu_mlp()
    optimizer = OPTIMIZERS[name](
        [{"params": case.inner[0].parameters()}, {"params": case.inner[2].parameters(), "weight_decay": 0.0}]
    )
    case.train_live(optimizer, 2)
    steps = 6 if name.startswith("radam") else 3  # RAdam adapts from its fifth step on
    problem, batches = case.problem(), Batches([case.train[i % 5] for i in range(steps)])
    adjoint, graph = (
        hypergradient(problem, Unrolled(steps, mode=mode), batches, case.val, optimizer=optimizer)
        for mode in ("adjoint", "graph")
    )
    live = zoo.live_outer_loss(case, optimizer, {"logits": torch.zeros(3)}, steps)
    assert float(adjoint.outer_loss) == pytest.approx(live, rel=1e-12)
    assert zoo.relative_error(adjoint, graph) < 1e-9
    assert zoo.relative_error(adjoint, zoo.central_differences(case, optimizer, steps)) < 1e-6


def test_settings_of_each_group_are_kept() -> None:
    held = parameters()
    optimizer = torch.optim.RMSprop(
        [{"params": held[:1], "lr": 0.5, "centered": True}, {"params": held[1:], "momentum": 0.9}], lr=0.1
    )
    order = [held[2], held[0], held[1]]
    rule = from_torch(optimizer, order)
    params: tuple[Tensor, ...] = tuple(p.detach().clone() for p in order)
    state = rule.init(params)
    for step in (0, 2, 4):
        live_step(optimizer, held, step)
        grads = gradients(step)
        params, state = rule.update(params, [grads[2], grads[0], grads[1]], state, {})
    for mine, live in zip(params, order, strict=True):
        torch.testing.assert_close(mine, live.detach(), rtol=1e-13, atol=1e-14)


def test_every_supported_class_is_tested() -> None:
    made = {
        type(make([nn.Parameter(torch.zeros(2))]))
        for make in (*OPTIMIZERS.values(), *zoo.OPTIMIZERS.values())
    }
    assert {f"torch.optim.{cls.__name__}" for cls in made} == set(supported_optimizers())


@pytest.mark.parametrize("cls", [torch.optim.Rprop, torch.optim.Adafactor, torch.optim.LBFGS])
def test_others_are_refused_with_the_list_of_what_works(cls: Any) -> None:
    with pytest.raises(UnsupportedOptimizerError) as caught:
        from_torch(cls(parameters()))
    assert cls.__name__ in str(caught.value)
    for name in supported_optimizers():
        assert name in str(caught.value)
    if cls is torch.optim.Rprop:
        assert "sign" in str(caught.value)


TRANSFORMATIONS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: torchopt.sgd(0.1, momentum=0.8, nesterov=True),
    "adam": lambda: torchopt.adam(0.02),
    "adamw": lambda: torchopt.adamw(0.02),
    "adamax": lambda: torchopt.adamax(0.02),
    "adadelta": lambda: torchopt.adadelta(0.5, eps=1e-3),
    "adagrad": lambda: torchopt.adagrad(0.1),
    "radam": lambda: torchopt.radam(0.02, betas=(0.9, 0.8)),
    "rmsprop": lambda: torchopt.rmsprop(0.01),
    "rmsprop_centered": lambda: torchopt.rmsprop(0.01, momentum=0.5, centered=True),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_every_torchopt_alias_is_exact_with_dead_units(name: str) -> None:
    """Against central differences of the outer loss after really taking the steps."""
    case = zoo.dead_relu_mlp()
    problem, steps = case.problem(), 6 if name == "radam" else 3
    batches = Batches([case.train[i % 5] for i in range(steps)])

    def evaluate(mode: Any) -> bilevel.Hypergradient:
        return hypergradient(
            problem, Unrolled(steps, mode=mode), batches, case.val, optimizer=TRANSFORMATIONS[name]()
        )

    found, graph = evaluate("adjoint"), evaluate("graph")
    assert zoo.relative_error(found, graph) < 1e-9
    slope = torch.zeros(3, dtype=torch.float64)
    for index in range(3):
        values = []
        for shift in (-2, -1, 1, 2):
            with torch.no_grad():
                case.outer.logits[index] += shift * 1e-4
            values.append(float(evaluate("adjoint").outer_loss))
            with torch.no_grad():
                case.outer.logits[index] -= shift * 1e-4
        slope[index] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / 12e-4
    assert zoo.relative_error(found, {"logits": slope}) < 1e-6


def test_every_torchopt_alias_is_tested() -> None:
    aliases = {name for name in torchopt.alias.__all__ if callable(getattr(torchopt, name, None))}
    assert {name.split("_")[0] for name in TRANSFORMATIONS} == aliases
