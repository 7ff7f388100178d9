"""A learning rate that learns: forward-mode hypergradients of SGD's own learning rate on digits.

The learning rate starts 100 times too small. Every few training steps its logarithm moves down the
hypergradient of the held-out loss after those steps; with a single outer parameter, forward mode costs one
tangent and keeps no trajectory. Beside it: the same training at fixed rates.

    python examples/learned_learning_rate.py [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import bilevel
from bilevel.optim import LearnedSettings

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Batch = tuple[Tensor, Tensor]
START, STEPS = 0.003, 5


class Rate(nn.Module):
    """The learning rate is exp(log)."""

    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(START).log())


def loss(model: nn.Module, rate: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


@dataclass
class Result:
    """Held-out loss after every round of training steps, for each fixed rate and the learned one."""

    curves: dict[str, list[float]]
    rates: list[float]


def run(rounds: int) -> Result:
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16.0).float(), torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, val = order[:1200], order[1200:]
    held_out = (x[val], y[val])

    def batches(seed: int) -> list[bilevel.Batches]:
        generator = torch.Generator().manual_seed(seed)

        def draw_one() -> Batch:
            index = train[torch.randint(len(train), (100,), generator=generator)]
            return x[index], y[index]

        return [bilevel.Batches(draw_one() for _ in range(STEPS)) for _ in range(rounds)]

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def held_out_loss(model: nn.Module) -> float:
        with torch.no_grad():
            return loss(model, model, held_out).item()

    curves: dict[str, list[float]] = {}
    for fixed in (START, 10 * START, 100 * START):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=fixed)
        curve = curves[f"fixed {fixed:g}"] = [held_out_loss(model)]
        for group in batches(1):
            for batch in group:
                optimizer.zero_grad()
                loss(model, model, batch).backward()
                optimizer.step()
            curve.append(held_out_loss(model))

    model, rate = network(), Rate()
    solver = bilevel.Solver(
        loss,
        loss,
        inner=model,
        outer=rate,
        inner_optimizer=LearnedSettings(
            torch.optim.SGD(model.parameters(), lr=START), lr=lambda outer: outer["log"].exp()
        ),
        outer_optimizer=torch.optim.Adam(rate.parameters(), lr=0.3),
        hypergradient=bilevel.ForwardMode(steps=STEPS),
        inner_steps=STEPS,
    )
    curve, rates = [held_out_loss(model)], [rate.log.exp().item()]
    for group in batches(1):
        solver.step(group, held_out)
        curve.append(held_out_loss(model))
        rates.append(rate.log.exp().item())
    curves["learned"] = curve
    return Result(curves, rates)


def draw(result: Result, path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for name, curve in result.curves.items():
        steps = [STEPS * index for index in range(len(curve))]
        left.plot(steps, curve, label=name, linewidth=2.5 if name == "learned" else 1)
    left.set_yscale("log")
    left.set_xlabel("training steps")
    left.set_ylabel("held-out loss")
    left.legend(fontsize=8)
    right.semilogy([STEPS * index for index in range(len(result.rates))], result.rates)
    right.set_xlabel("training steps")
    right.set_ylabel("learned learning rate")
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> Result:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer training steps")
    parser.add_argument("--out", type=Path, default=Path("learned_learning_rate.png"))
    chosen = parser.parse_args(arguments)
    result = run(25 if chosen.quick else 80)
    for name, curve in result.curves.items():
        print(f"{name:12s} held-out loss {curve[-1]:.3f}")
    print(f"learning rate from {result.rates[0]:g} to {result.rates[-1]:.3g}")
    draw(result, chosen.out)
    print(f"wrote {chosen.out}")
    return result


if __name__ == "__main__":
    main()
