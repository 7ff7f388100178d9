"""Unrolled against implicit, side by side: error and cost on l2-regularised logistic regression.

The outer parameters are one l2 penalty a feature of scikit-learn's breast-cancer data. At the minimum of the
inner problem both families tend to the same hypergradient: the unroll with its steps, the implicit method
with the products that its linear solver may make. `bilevel.compare` measures how fast.
There, steps of plain gradient descent and terms of the Neumann series with the same step size give the same
answer; conjugate gradient needs far fewer products.

    python examples/unrolled_vs_implicit.py [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import bilevel

Batch = tuple[Tensor, Tensor]


class Penalties(nn.Module):
    """exp(log) is the l2 penalty of each feature."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.full((features,), -3.0, dtype=torch.float64))


def outer_loss(model: nn.Linear, penalties: Penalties, batch: Batch) -> Tensor:
    x, y = batch
    return F.binary_cross_entropy_with_logits(model(x)[:, 0], y)


def inner_loss(model: nn.Linear, penalties: Penalties, batch: Batch) -> Tensor:
    return outer_loss(model, penalties, batch) + (penalties.log.exp() * model.weight[0].square()).sum()


def run(budgets: Sequence[int]) -> bilevel.Comparison:
    data = load_breast_cancer()
    x = torch.tensor(StandardScaler().fit_transform(data.data))
    y = torch.tensor(data.target, dtype=torch.float64)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, val = (x[order[:300]], y[order[:300]]), (x[order[300:]], y[order[300:]])
    model, penalties = nn.Linear(x.shape[1], 1).double(), Penalties(x.shape[1])

    lbfgs = torch.optim.LBFGS(
        model.parameters(),
        max_iter=500,
        tolerance_grad=1e-12,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        lbfgs.zero_grad()
        loss = inner_loss(model, penalties, train)
        loss.backward()
        return loss

    lbfgs.step(closure)

    methods: dict[str, bilevel.HypergradientMethod] = {}
    for budget in budgets:
        methods[f"Unrolled({budget})"] = bilevel.Unrolled(steps=budget)
        solver = bilevel.ConjugateGradient(max_iterations=budget, tolerance=0.0)
        methods[f"CG({budget})"] = bilevel.Implicit(solver)
        methods[f"Neumann({budget})"] = bilevel.Implicit(
            bilevel.Neumann(step_size=0.3, max_iterations=budget, tolerance=0.0)
        )
    return bilevel.compare(
        bilevel.Problem(inner_loss, outer_loss, model, penalties),
        methods,
        reference=bilevel.Implicit(bilevel.ConjugateGradient(max_iterations=200, tolerance=1e-13)),
        batches=[(train, val)],
        optimizer=torch.optim.SGD(model.parameters(), lr=0.3),
        repeats=3,
    )


def main(arguments: Sequence[str] | None = None) -> bilevel.Comparison:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small budgets only")
    parser.add_argument("--out", type=Path, default=Path("unrolled_vs_implicit.png"))
    chosen = parser.parse_args(arguments)
    found = run((2, 5, 10) if chosen.quick else (2, 5, 10, 20, 50, 100))
    print(found)
    found.plot(chosen.out)
    print(f"wrote {chosen.out}")
    return found


if __name__ == "__main__":
    main()
