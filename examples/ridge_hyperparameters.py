"""One l2 penalty a feature, learned by implicit differentiation on scikit-learn's diabetes data.

Ridge regression on the 10 measurements, their squares and products (65 features). The baseline is the best
single penalty of a grid; from there, every feature's own penalty is learned to lower the validation error.

    python examples/ridge_hyperparameters.py [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch import Tensor, nn

import bilevel

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Batch = tuple[Tensor, Tensor]


class Penalties(nn.Module):
    """exp(log) is the l2 penalty of each feature."""

    def __init__(self, features: int, start: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.full((features,), start, dtype=torch.float64))


def inner_loss(model: nn.Linear, penalties: Penalties, batch: Batch) -> Tensor:
    x, y = batch
    return (model(x)[:, 0] - y).square().mean() + (penalties.log.exp() * model.weight[0].square()).sum()


def outer_loss(model: nn.Linear, penalties: Penalties, batch: Batch) -> Tensor:
    x, y = batch
    return (model(x)[:, 0] - y).square().mean()


def load(seed: int = 0) -> tuple[Batch, Batch, Batch]:
    """Training, validation and test parts: features [N, 65] and the target, standardised."""
    data = load_diabetes()
    x = PolynomialFeatures(2, include_bias=False).fit_transform(StandardScaler().fit_transform(data.data))
    order = np.random.default_rng(seed).permutation(len(x))
    train, val, test = np.split(order, [150, 300])
    scale = StandardScaler().fit(x[train])
    mean, spread = data.target[train].mean(), data.target[train].std()

    def part(index: np.ndarray) -> Batch:
        return torch.tensor(scale.transform(x[index])), torch.tensor((data.target[index] - mean) / spread)

    return part(train), part(val), part(test)


def solve(model: nn.Linear, penalties: Penalties, train: Batch) -> None:
    """Put the minimiser of the inner loss into the model."""
    x, y = train
    with torch.no_grad():
        gram = x.T @ x / len(x) + torch.diag(penalties.log.exp())
        model.weight[0] = torch.linalg.solve(gram, x.T @ y / len(x))


@dataclass
class Result:
    """Mean squared errors (1 is predicting the mean) of one penalty for all, and of one a feature."""

    grid: dict[str, float]
    learned: dict[str, float]
    history: list[tuple[float, float]]
    penalties: Tensor


def run(steps: int) -> Result:
    train, val, test = load()
    model = nn.Linear(train[0].shape[1], 1, bias=False).double()

    def errors(penalties: Penalties) -> dict[str, float]:
        solve(model, penalties, train)
        with torch.no_grad():
            return {
                name: outer_loss(model, penalties, b).item() for name, b in (("val", val), ("test", test))
            }

    grid = {start: errors(Penalties(65, start)) for start in np.linspace(-6, 2, 33)}
    start = min(grid, key=lambda one: grid[one]["val"])
    penalties = Penalties(65, start)
    problem = bilevel.Problem(inner_loss, outer_loss, model, penalties)
    method = bilevel.Implicit(bilevel.ConjugateGradient(max_iterations=65, tolerance=1e-8))
    optimizer = torch.optim.Adam(penalties.parameters(), lr=0.05)
    history = []
    for _ in range(steps):
        now = errors(penalties)  # leaves the model at the minimum, where the implicit formula is exact
        history.append((now["val"], now["test"]))
        for name, value in bilevel.hypergradient(problem, method, train, val).items():
            problem.outer_parameters()[name].grad = value
        optimizer.step()
    learned = errors(penalties)
    history.append((learned["val"], learned["test"]))
    return Result(grid[start], learned, history, penalties.log.detach().exp())


def draw(result: Result, path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.plot([val for val, _ in result.history], label="validation")
    left.plot([test for _, test in result.history], label="test")
    left.set_xlabel("outer steps")
    left.set_ylabel("mean squared error")
    left.legend()
    right.semilogy(sorted(result.penalties.tolist()), ".")
    right.set_xlabel("feature, sorted")
    right.set_ylabel("learned l2")
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> Result:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer outer steps")
    parser.add_argument("--out", type=Path, default=Path("ridge_hyperparameters.png"))
    chosen = parser.parse_args(arguments)
    result = run(15 if chosen.quick else 100)
    for name, errors in (("best single l2", result.grid), ("one l2 a feature", result.learned)):
        print(f"{name:18s} validation {errors['val']:.4f}   test {errors['test']:.4f}")
    draw(result, chosen.out)
    print(f"wrote {chosen.out}")
    return result


if __name__ == "__main__":
    main()
