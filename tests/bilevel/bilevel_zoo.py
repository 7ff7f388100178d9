"""Small bilevel problems in float64, and references that share no code with the methods under test."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bilevel

Optimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]


@dataclass
class Case:
    """A problem with data: `train` has a batch for each of several steps."""

    inner_loss: Callable[[Any, Any, Any], Tensor]
    outer_loss: Callable[[Any, Any, Any], Tensor]
    inner: nn.Module
    outer: nn.Module
    train: list[Any]
    val: Any

    def problem(self) -> bilevel.Problem:
        return bilevel.Problem(self.inner_loss, self.outer_loss, self.inner, self.outer)

    def solver(
        self, optimizer: object, method: bilevel.HypergradientMethod, **options: Any
    ) -> bilevel.Solver:
        options.setdefault("outer_optimizer", torch.optim.SGD(self.outer.parameters(), lr=0.1))
        return bilevel.Solver(
            self.inner_loss,
            self.outer_loss,
            inner=self.inner,
            outer=self.outer,
            inner_optimizer=optimizer,
            hypergradient=method,
            **options,
        )

    def train_live(self, optimizer: torch.optim.Optimizer, steps: int) -> None:
        """Ordinary training, to give the optimiser a state worth carrying."""
        for step in range(steps):
            _live_step(self, self.inner, self.outer, optimizer, self.train[step % len(self.train)])


def mlp(*sizes: int, activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1]).double()


class Scale(nn.Module):
    """A few outer parameters that also enter the outer loss directly."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.linspace(-1.0, 0.5, size, dtype=torch.float64))

    def forward(self) -> Tensor:
        return self.log.exp()


def weighted_loss(model: nn.Module, weights: nn.Module, batch: Any) -> Tensor:
    x, y, cluster = batch
    return (weights(cluster) * F.cross_entropy(model(x), y, reduction="none")).mean()


def plain_loss(model: nn.Module, weights: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


def _classes(shape: tuple[int, ...], steps: int, clusters: int = 3) -> tuple[list[Any], Any]:
    size = shape[0]
    train = [
        (
            torch.randn(shape, dtype=torch.float64),
            torch.randint(3, (size,)),
            torch.randperm(size) % clusters,
        )
        for _ in range(steps)
    ]
    return train, (torch.randn(shape, dtype=torch.float64), torch.randint(3, (size,)))


def reweighted_mlp(seed: int = 0, activation: Callable[[], nn.Module] = nn.Tanh, steps: int = 5) -> Case:
    """Cluster weights on a small classifier."""
    torch.manual_seed(seed)
    model = mlp(4, 6, 3, activation=activation)
    weights = bilevel.ClusterWeights(3).double()
    with torch.no_grad():
        weights.logits.copy_(torch.randn(3, dtype=torch.float64) * 0.3)
    train, val = _classes((9, 4), steps)
    return Case(weighted_loss, plain_loss, model, weights, train, val)


def dead_relu_mlp(seed: int = 0, steps: int = 5) -> Case:
    """As above with ReLU, where two hidden units never fire: their gradients are exactly 0."""
    case = reweighted_mlp(seed, nn.ReLU, steps)
    with torch.no_grad():
        case.inner[0].bias[:2] = -100.0
        case.inner[0].bias[2:] += 0.3
    return case


def conv_net(seed: int = 0, dropout: float = 0.25, steps: int = 4) -> Case:
    """Convolution, BatchNorm, dropout. No bias before BatchNorm: its gradient is rounding noise."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Dropout(dropout),
        nn.Conv2d(3, 4, 3, stride=2, bias=False),
        nn.BatchNorm2d(4),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).double()
    weights = bilevel.ClusterWeights(3).double()
    train, val = _classes((8, 1, 6, 6), steps)
    return Case(weighted_loss, plain_loss, model, weights, train, val)


def direct(seed: int = 0, steps: int = 5) -> Case:
    """Regression with a learned l2 per layer, where the outer loss depends on λ directly as well."""
    torch.manual_seed(seed)
    model = mlp(4, 5, 1)
    scale = Scale(2)

    def inner(net: nn.Module, lam: Scale, batch: Any) -> Tensor:
        x, y = batch
        decay = lam()[0] * net[0].weight.square().sum() + lam()[1] * net[2].weight.square().sum()
        return F.mse_loss(net(x)[:, 0], y) + 0.1 * decay

    def outer(net: nn.Module, lam: Scale, batch: Any) -> Tensor:
        x, y = batch
        return F.mse_loss(net(x)[:, 0], y) + 0.3 * lam().square().sum()

    def data() -> tuple[Tensor, Tensor]:
        x = torch.randn(12, 4, dtype=torch.float64)
        return x, x.sum(1).sin()

    return Case(inner, outer, model, scale, [data() for _ in range(steps)], data())


class Ridge:
    """½‖Xw − y‖²/n + ½ Σ exp(λⱼ) wⱼ², with the hypergradient of the validation loss in closed form."""

    def __init__(self, seed: int = 0, samples: int = 20, features: int = 5) -> None:
        torch.manual_seed(seed)
        self.x, self.x_val = (torch.randn(samples, features, dtype=torch.float64) for _ in range(2))
        true = torch.randn(features, dtype=torch.float64)
        self.y, self.y_val = (x @ true + 0.5 * torch.randn(samples).double() for x in (self.x, self.x_val))
        self.scale = Scale(features)
        self.model = nn.Linear(features, 1, bias=False).double()
        with torch.no_grad():
            self.model.weight[0] = self.solution(self.scale.log)

    def hessian(self, log: Tensor) -> Tensor:
        return self.x.T @ self.x / len(self.x) + torch.diag(log.exp())

    def solution(self, log: Tensor) -> Tensor:
        return torch.linalg.solve(self.hessian(log), self.x.T @ self.y / len(self.x))

    def exact(self) -> Tensor:
        log = self.scale.log.detach()
        w = self.solution(log)
        slope = self.x_val.T @ (self.x_val @ w - self.y_val) / len(self.x_val)
        return -log.exp() * w * torch.linalg.solve(self.hessian(log), slope)

    def case(self) -> Case:
        def inner(model: nn.Module, scale: Scale, batch: Any) -> Tensor:
            x, y = batch
            w = model.weight[0]
            return 0.5 * (model(x)[:, 0] - y).square().mean() + 0.5 * (scale() * w.square()).sum()

        def outer(model: nn.Module, scale: Scale, batch: Any) -> Tensor:
            x, y = batch
            return 0.5 * (model(x)[:, 0] - y).square().mean()

        return Case(inner, outer, self.model, self.scale, [(self.x, self.y)], (self.x_val, self.y_val))


def _live_step(
    case: Case, inner: nn.Module, outer: nn.Module, optimizer: torch.optim.Optimizer, batch: Any
) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    loss = case.inner_loss(inner, outer, batch)
    grads = torch.autograd.grad(loss, [p for p in parameters if p.requires_grad], allow_unused=True)
    iterator = iter(grads)
    for p in parameters:
        p.grad = next(iterator) if p.requires_grad else None
    optimizer.step()
    for p in parameters:
        p.grad = None


def live_outer_loss(
    case: Case,
    optimizer: torch.optim.Optimizer,
    shift: Mapping[str, Tensor],
    steps: int,
    *,
    from_step: int = 0,
    seed: int = 0,
) -> float:
    """F after really training copies of everything with torch.optim, λ shifted from step `from_step` on."""
    inner, outer, optimizer = copy.deepcopy((case.inner, case.outer, optimizer))
    torch.manual_seed(seed)
    for step in range(steps + 1):
        if step == from_step:
            with torch.no_grad():
                for name, parameter in outer.named_parameters():
                    parameter += shift[name]
        if step < steps:
            _live_step(case, inner, outer, optimizer, case.train[step % len(case.train)])
    return case.outer_loss(inner, outer, case.val).item()


def central_differences(
    case: Case, optimizer: torch.optim.Optimizer, steps: int, *, from_step: int = 0, seed: int = 0
) -> dict[str, Tensor]:
    """dF/dλ of real training by fourth-order central differences, one coordinate after the other."""
    width = 1e-4
    found = {}
    for name, parameter in case.outer.named_parameters():
        slope = torch.zeros(parameter.numel(), dtype=torch.float64)
        for index in range(parameter.numel()):
            values = []
            for factor in (-2, -1, 1, 2):
                shift = {other: torch.zeros_like(p) for other, p in case.outer.named_parameters()}
                shift[name].view(-1)[index] = factor * width
                values.append(live_outer_loss(case, optimizer, shift, steps, from_step=from_step, seed=seed))
            slope[index] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * width)
        found[name] = slope.view_as(parameter)
    return found


def relative_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """‖found − expected‖ / ‖expected‖ over all outer parameters."""
    assert list(found) == list(expected)
    difference = torch.cat([(found[name] - expected[name]).flatten() for name in found])
    return float(difference.norm() / torch.cat([value.flatten() for value in expected.values()]).norm())


def cosine(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The cosine of the angle between two hypergradients."""
    a, b = (torch.cat([value.flatten() for value in one.values()]) for one in (found, expected))
    return float(F.cosine_similarity(a, b, dim=0))


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=torch.tensor(0.2, dtype=torch.float64)),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.02),
    "dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, dampening=0.3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "maximize": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.5, maximize=True, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02),
    "adam_l2": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.05, betas=(0.8, 0.95)),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.03, amsgrad=True, betas=(0.5, 0.7)),
    "adam_maximize": lambda p: torch.optim.Adam(p, lr=0.01, maximize=True),
}
