"""Every hypergradient method on one noisy-label problem: relative error against cost.

Softmax regression on scikit-learn's digits, 40 % of the labels wrong, one weight for each of 16 clusters of
images. Two questions have two exact answers, and a method is judged by the one it means to answer:

- left: how the outer loss depends on the weights after T = 20 steps of the inner optimiser;
- right: how it depends on them at the minimiser of the inner loss.

Cost is the number of multiplications in matrix products over that of one ordinary training gradient: it does
not depend on the machine, and leaves out what else a method does (the eigenvalues of `DenseSolve`, the Python
around small tensors). The tables show seconds and memory too.

    python examples/which_method.py [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import bilevel

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

Batch = tuple[Tensor, ...]
Family = dict[str, dict[int, bilevel.HypergradientMethod]]
CLUSTERS, WRONG, L2, LR, MOMENTUM, STEPS = 16, 0.4, 1e-2, 0.2, 0.9, 20


def inner_loss(model: nn.Module, weights: nn.Module, batch: Batch) -> Tensor:
    x, y, cluster = batch
    losses = F.cross_entropy(model(x), y, reduction="none")
    return (weights(cluster) * losses).mean() + L2 * sum(p.square().sum() for p in model.parameters())


def outer_loss(model: nn.Module, weights: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def load() -> tuple[Batch, Batch]:
    """400 training samples with their clusters, and 100 clean ones."""
    digits = load_digits()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(digits.target), generator=generator)
    x, y = torch.tensor(digits.data / 16.0)[order], torch.tensor(digits.target)[order]
    wrong = torch.rand(400, generator=generator) < WRONG
    given = torch.where(wrong, (y[:400] + torch.randint(1, 10, (400,), generator=generator)) % 10, y[:400])
    cluster = KMeans(CLUSTERS, n_init=1, random_state=0).fit_predict(x[:400].numpy())
    return (x[:400], given, torch.from_numpy(cluster).long()), (x[400:500], y[400:500])


def minimise(model: nn.Linear, weights: nn.Module, train: Batch) -> None:
    """Put the minimiser of the inner loss into the model."""
    lbfgs = torch.optim.LBFGS(
        model.parameters(),
        max_iter=1000,
        tolerance_grad=1e-11,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        lbfgs.zero_grad()
        loss = inner_loss(model, weights, train)
        loss.backward()
        return loss

    lbfgs.step(closure)


def after_steps() -> Family:
    """Methods for the first question; the numbers are the budgets."""
    return {
        "Unrolled(20, truncate=k)": {k: bilevel.Unrolled(STEPS, truncate=k) for k in (1, 2, 5, 10, 15)},
        "Unrolled(20)": {0: bilevel.Unrolled(STEPS)},
        "Unrolled(20, mode='graph')": {0: bilevel.Unrolled(STEPS, mode="graph")},
        "Unrolled(20, trajectory='checkpoints')": {0: bilevel.Unrolled(STEPS, trajectory="checkpoints")},
        "Unrolled(20, products='forward-over-reverse')": {
            0: bilevel.Unrolled(STEPS, products="forward-over-reverse")
        },
        "ForwardMode(20)": {0: bilevel.ForwardMode(STEPS)},
        "SAMA": {0: bilevel.SAMA()},
        "FiniteDifference": {0: bilevel.FiniteDifference(LR)},
        "Identity": {0: bilevel.Identity(LR)},
        "GaussNewton": {0: bilevel.GaussNewton()},
    }


def at_minimum(budgets: Sequence[int], dense: bool) -> Family:
    """Methods for the second question; the numbers are the budgets."""
    cg, implicit = bilevel.ConjugateGradient, bilevel.Implicit
    return {
        "ConjugateGradient(k)": {k: implicit(cg(k, tolerance=0.0)) for k in budgets},
        "FixedPoint(momentum, k)": {
            k: implicit(bilevel.FixedPoint(1.0, momentum=0.7, max_iterations=k, tolerance=0.0))
            for k in budgets
        },
        "Neumann(k)": {k: implicit(bilevel.Neumann(1.0, max_iterations=k, tolerance=0.0)) for k in budgets},
        "Nystrom(rank k)": {k: implicit(bilevel.Nystrom(rank=k, damping=0.05)) for k in budgets},
        "Unrolled(k)": {k: bilevel.Unrolled(k) for k in budgets},
        "Penalty(k)": {k: bilevel.Penalty(gamma=1e4, steps=k, step_size=1.0) for k in budgets},
        "DenseSolve": {0: implicit(bilevel.DenseSolve())} if dense else {},
        "Identity": {0: bilevel.Identity(step_size=1.0)},
    }


def named(families: Family) -> dict[str, bilevel.HypergradientMethod]:
    return {_name(name, k): method for name, one in families.items() for k, method in one.items()}


def _name(family: str, budget: int) -> str:
    return f"{family} k={budget}" if budget else family


@dataclass
class Question:
    """Methods by family and budget, how far off each is, and its cost in training gradients."""

    families: Family
    found: bilevel.Comparison
    costs: dict[str, float]


@dataclass
class Result:
    """The answers to the two questions."""

    steps: Question
    minimum: Question


def flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def ask(
    problem: bilevel.Problem,
    families: Family,
    reference: bilevel.HypergradientMethod,
    batches: tuple[Batch, Batch],
    optimizer: torch.optim.Optimizer,
    repeats: int,
) -> Question:
    train, val = batches
    w = list(problem.inner.parameters())
    found = bilevel.compare(
        problem, named(families), reference=reference, batches=[batches], optimizer=optimizer, repeats=repeats
    )
    unit = flops(lambda: torch.autograd.grad(inner_loss(problem.inner, problem.outer, train), w))
    costs = {}
    for name, method in named(families).items():
        call = partial(bilevel.hypergradient, problem, method, train, val, optimizer=optimizer)
        costs[name] = flops(call) / unit
    return Question(families, found, costs)


def run(budgets: Sequence[int], repeats: int, dense: bool) -> Result:
    train, val = load()
    torch.manual_seed(0)
    model = nn.Linear(64, 10).double()
    weights = bilevel.ClusterWeights(CLUSTERS, parameterization="sigmoid", normalize="none").double()
    problem = bilevel.Problem(inner_loss, outer_loss, model, weights)

    momentum = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    steps = ask(
        problem, after_steps(), bilevel.Unrolled(STEPS, mode="graph"), (train, val), momentum, repeats
    )
    minimise(model, weights, train)
    exact = bilevel.Implicit(bilevel.ConjugateGradient(200, tolerance=1e-14))
    plain = torch.optim.SGD(model.parameters(), lr=1.0)
    minimum = ask(problem, at_minimum(budgets, dense), exact, (train, val), plain, repeats)
    return Result(steps, minimum)


def _draw(axes: Axes, question: Question, smallest: float) -> None:
    for marker, (family, budgets) in zip("osD^*v<>Xp", question.families.items(), strict=False):
        names = [_name(family, k) for k in budgets]
        errors = [max(question.found[name].relative_error, smallest) for name in names]
        costs = [question.costs[name] for name in names]
        axes.plot(costs, errors, marker=marker, label=family, markersize=6, linewidth=1, alpha=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("cost, in training gradients")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def draw(result: Result, path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
    _draw(left, result.steps, 0.0)
    _draw(right, result.minimum, 1e-16)
    right.set_yscale("log")
    left.set_title(f"after {STEPS} steps of SGD with momentum", fontsize=10)
    right.set_title("at the minimiser", fontsize=10)
    left.set_ylabel("relative error of the hypergradient")
    figure.savefig(path, dpi=130)


def main(arguments: Sequence[str] | None = None) -> Result:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small budgets only")
    parser.add_argument("--out", type=Path, default=Path("which_method.png"))
    chosen = parser.parse_args(arguments)
    result = run((2, 5, 10), 1, False) if chosen.quick else run((1, 2, 5, 10, 20, 50, 100, 200), 3, True)
    for question in (result.steps, result.minimum):
        print(question.found)
        for name, cost in question.costs.items():
            print(f"{name:40s} costs {cost:8.1f} training gradients")
    draw(result, chosen.out)
    print(f"wrote {chosen.out}")
    return result


if __name__ == "__main__":
    main()
