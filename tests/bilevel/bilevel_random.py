"""Random bilevel problems and methods for hypothesis, and what is asked of them."""

from __future__ import annotations

import os
from typing import Any

import torch
from bilevel_worlds import ACTIVATIONS, BY_DEFINITION, OUTER, Built, World
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from torch import Tensor

from bilevel import (
    SAMA,
    ConjugateGradient,
    DenseSolve,
    FiniteDifference,
    FixedPoint,
    ForwardMode,
    GaussNewton,
    Hypergradient,
    HypergradientMethod,
    Identity,
    Implicit,
    Neumann,
    Nystrom,
    Penalty,
    Unrolled,
    hypergradient,
)

TIMES = int(os.environ.get("BILEVEL_EXAMPLES", "1"))


def examples(count: int) -> settings:
    return settings(
        max_examples=count * TIMES,
        derandomize=TIMES == 1,
        deadline=None,
        database=None,
        phases=(Phase.generate,),  # a world is short to read; shrinking it takes minutes
        suppress_health_check=list(HealthCheck),
    )


def ask(built: Built, method: HypergradientMethod, seed: int = 1) -> Hypergradient:
    torch.manual_seed(seed)
    return hypergradient(built.case.problem(), method, built.train, built.case.val, optimizer=built.optimizer)


def flat(named: dict[str, Tensor]) -> Tensor:
    return torch.cat([one.flatten() for one in named.values()])


def close(found: Hypergradient, expected: Hypergradient, tolerance: float) -> bool:
    """Relative to the norm; a hypergradient that is 0 but for rounding has no relative error."""
    assert list(found) == list(expected)
    return float((flat(found) - flat(expected)).norm()) <= tolerance * float(flat(expected).norm()) + 1e-13


def same(found: Hypergradient, expected: Hypergradient) -> bool:
    return all(torch.equal(found[name], expected[name]) for name in expected) and torch.equal(
        found.inner_losses, expected.inner_losses
    )


def identical(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    return bool(a == b)


def _settings(smooth: bool) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    decay = st.sampled_from([0.0, 0.05])
    maximize = st.sampled_from([False, False, False, True])
    betas = st.sampled_from([(0.9, 0.999), (0.5, 0.7)])
    # g/(|g| + ε) with a small ε is a step: exact derivatives know, differences do not.
    eps = st.sampled_from([1e-2] if smooth else [1e-8, 1e-2])
    flag = st.booleans()

    def some(name: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
        return st.tuples(st.just(name), st.fixed_dictionaries(fields))

    adam = {"lr": st.sampled_from([0.01, 0.05]), "betas": betas, "eps": eps, "weight_decay": decay}
    return st.one_of(
        some("SGD", lr=st.sampled_from([0.1, 0.3]), weight_decay=decay, maximize=maximize),
        some("SGD", lr=st.just(0.1), momentum=st.just(0.9), dampening=st.sampled_from([0.0, 0.3])),
        some("SGD", lr=st.just(0.1), momentum=st.just(0.8), nesterov=st.just(True), weight_decay=decay),
        some("Adam", **adam, amsgrad=flag, maximize=maximize),
        some("AdamW", **adam, amsgrad=flag),
        some("Adamax", **adam, maximize=maximize),
        some("NAdam", **adam, decoupled_weight_decay=flag),
        some("RAdam", **adam, decoupled_weight_decay=flag),
        some(
            "RMSprop",
            lr=st.just(0.02),
            alpha=st.sampled_from([0.8, 0.99]),
            eps=eps,
            momentum=st.sampled_from([0.0, 0.5]),
            centered=flag,
            weight_decay=decay,
        ),
        some(
            "Adagrad",
            lr=st.just(0.1),
            lr_decay=st.sampled_from([0.0, 0.1]),
            initial_accumulator_value=st.sampled_from([0.0, 0.3]),
            eps=eps,
            weight_decay=decay,
        ),
        some("Adadelta", lr=st.just(1.0), rho=st.just(0.8), eps=st.just(1e-2), weight_decay=decay),
        some("ASGD", lr=st.just(0.1), lambd=st.just(0.1), t0=st.sampled_from([1, 1e6]), weight_decay=decay),
    )


def worlds(
    *, smooth: bool = False, dropout: bool | None = None, steps: st.SearchStrategy[int] | None = None
) -> st.SearchStrategy[World]:
    """Any world; a smooth one has a derivative that differences of real training can see."""
    return st.builds(
        World,
        seed=st.integers(0, 2**16),
        body=st.sampled_from(["linear", "mlp", "tied", "conv"]),
        activation=st.sampled_from(["tanh", "softplus"] if smooth else list(ACTIVATIONS)),
        dropout=st.sampled_from([0.0, 0.3] if dropout is None else [0.3] if dropout else [0.0]),
        frozen=st.booleans(),
        unused=st.booleans(),
        counter=st.booleans(),
        mode=st.just("train") if dropout else st.sampled_from(["train", "train", "mixed", "eval"]),
        outer=st.sampled_from(
            [one for one in OUTER if not smooth or not any(word in one for word in BY_DEFINITION)]
        ),
        direct=st.booleans(),
        optimizer=_settings(smooth),
        groups=st.booleans(),
        warm=st.integers(0, 2),
        structure=st.sampled_from(["tuple", "list", "dict", "nest"]),
        handing=st.sampled_from(["one", "steps", "micro"]),
        two_vals=st.booleans(),
        steps=st.integers(1, 4) if steps is None else steps,
    )


METHODS: list[HypergradientMethod] = [
    GaussNewton(),
    Implicit(ConjugateGradient(3, damping=3.0)),
    Implicit(Neumann(0.05, 3, damping=3.0)),
    Implicit(FixedPoint(0.05, 0.1, 3, damping=3.0)),
    Implicit(Nystrom(3, damping=1.0)),
    Implicit(DenseSolve(damping=5.0)),
    FiniteDifference(0.1),
    Identity(0.1),
    SAMA(),
    SAMA("exact"),
    Penalty(10.0, 2, 0.05),
]


def methods(world: World) -> st.SearchStrategy[HypergradientMethod]:
    unrolled = [
        Unrolled(world.steps),
        Unrolled(world.steps, 1),
        Unrolled(world.steps, trajectory="checkpoints"),
        Unrolled(world.steps, mode="graph"),
        Unrolled(world.steps, trajectory="checkpoints", products="forward-over-reverse"),
        ForwardMode(world.steps, None, walked_back=0),
        ForwardMode(world.steps, walked_back=0),
        ForwardMode(world.steps),
    ]
    return st.sampled_from(unrolled + METHODS)
