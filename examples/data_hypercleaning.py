"""Data hyper-cleaning: one weight a training sample finds the wrong labels of scikit-learn's digits.

Softmax regression on samples of which 40 % carry a wrong label; a clean validation set teaches the weights
(Franceschi et al. 2017). Then the samples with weight above ½ are kept and the model is trained on them. The
baselines: all labels as given, and the clean validation set alone.

    python examples/data_hypercleaning.py [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import bilevel

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Batch = tuple[Tensor, Tensor, Tensor]
NUM_TRAIN, NUM_VAL, WRONG, L2 = 800, 100, 0.4, 1e-3


def inner_loss(model: nn.Linear, weights: nn.Module, batch: Batch) -> Tensor:
    x, y, index = batch
    losses = F.cross_entropy(model(x), y, reduction="none")
    return (weights(index) * losses).mean() + L2 * model.weight.square().sum()


def outer_loss(model: nn.Linear, weights: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def fit(x: Tensor, y: Tensor, steps: int = 300) -> nn.Linear:
    model = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        (F.cross_entropy(model(x), y) + L2 * model.weight.square().sum()).backward()
        optimizer.step()
    return model


@dataclass
class Result:
    """Test accuracies in percent, the weights, and which labels are wrong."""

    accuracy: dict[str, float]
    weights: Tensor
    wrong: Tensor
    auc: float


def run(outer_steps: int, seed: int = 0) -> Result:
    torch.manual_seed(seed)
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    x, truth = torch.tensor(digits.data[order] / 16.0).float(), torch.tensor(digits.target[order])
    train, val, test = (slice(0, NUM_TRAIN), slice(NUM_TRAIN, NUM_TRAIN + NUM_VAL), slice(1000, None))
    wrong = torch.rand(NUM_TRAIN) < WRONG
    given = torch.where(wrong, (truth[train] + torch.randint(1, 10, (NUM_TRAIN,))) % 10, truth[train])

    model, weights = nn.Linear(64, 10), bilevel.SampleWeights(NUM_TRAIN)
    solver = bilevel.Solver(
        inner_loss,
        outer_loss,
        inner=model,
        outer=weights,
        inner_optimizer=torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9),
        outer_optimizer=torch.optim.Adam(weights.parameters(), lr=0.2),
        hypergradient=bilevel.Unrolled(steps=10),
        inner_steps=5,
    )
    batch, clean = (x[train], given, torch.arange(NUM_TRAIN)), (x[val], truth[val])
    for _ in range(outer_steps):
        solver.step(batch, clean)

    found = weights(torch.arange(NUM_TRAIN)).detach()
    keep = found > 0.5
    models = {
        "all labels as given": fit(x[train], given),
        "validation set only": fit(x[val], truth[val]),
        "kept samples": fit(x[train][keep], given[keep]),
        "true labels": fit(x[train], truth[train]),
    }
    with torch.no_grad():
        accuracy = {
            name: 100 * (one(x[test]).argmax(1) == truth[test]).float().mean().item()
            for name, one in models.items()
        }
    return Result(accuracy, found, wrong, float(roc_auc_score(wrong, -found)))


def draw(result: Result, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    parts = [result.weights[~result.wrong].numpy(), result.weights[result.wrong].numpy()]
    axes.hist(parts, bins=25, range=(0, 1), label=["correct label", "wrong label"])
    axes.set_xlabel("learned weight of a training sample")
    axes.set_ylabel("samples")
    axes.set_title(f"wrong labels found: area under ROC {result.auc:.3f}", fontsize=10)
    axes.legend()
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> Result:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer outer steps")
    parser.add_argument("--out", type=Path, default=Path("data_hypercleaning.png"))
    chosen = parser.parse_args(arguments)
    results = [run(25 if chosen.quick else 100, seed) for seed in range(1 if chosen.quick else 3)]
    print(f"test accuracy, mean ± standard deviation over {len(results)} seed(s)")
    for name in results[0].accuracy:
        found = np.array([one.accuracy[name] for one in results])
        print(f"trained on {name:22s} {found.mean():.1f} ± {found.std():.1f} %")
    auc = np.mean([one.auc for one in results])
    print(f"wrong labels found by their weights: area under ROC {auc:.3f}")
    draw(results[0], chosen.out)
    print(f"wrote {chosen.out}")
    return results[0]


if __name__ == "__main__":
    main()
