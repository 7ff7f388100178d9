"""Bilevel problems made from a handful of plain choices: a failing one can be read and built again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import bilevel_zoo as zoo
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bilevel
from bilevel import Batches

SAMPLES, FEATURES, CLASSES, BATCH = 12, 4, 3, 5
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "dead relu": nn.ReLU,
}
TABLES = ("bounded_exp", "softmax", "sigmoid", "softplus")
OUTER = (
    *(f"cluster {one} {how}" for one in TABLES for how in ("mean", "detached_mean", "none")),
    "sample",
    "labels",
    "net",
    "detached net",
    "ridge",
)
# Where weights, or a part of them, are constants in the inner gradient by definition, real training has
# another derivative; see MetaWeightNet and TableWeights.
BY_DEFINITION = ("detached_mean", "detached net")


@dataclass(frozen=True)
class World:
    """The choices. Batches are built in one of several structures and handed over in one of several ways."""

    seed: int
    body: str
    activation: str
    dropout: float
    frozen: bool
    unused: bool
    counter: bool
    mode: str
    outer: str
    direct: bool
    optimizer: tuple[str, dict[str, Any]]
    groups: bool
    warm: int
    structure: str
    handing: str
    two_vals: bool
    steps: int


class Net(nn.Module):
    """A small classifier with, by choice, BatchNorm, dropout, tied, frozen or unused parameters, a buffer."""

    def __init__(self, world: World) -> None:
        super().__init__()
        activation = ACTIVATIONS[world.activation]
        self.conv, width = world.body == "conv", 5
        if world.body == "linear":
            self.body, width = nn.Sequential(), FEATURES
        elif self.conv:  # no bias before BatchNorm: its gradient is rounding noise
            norm, width = nn.BatchNorm2d(2), 18
            self.body = nn.Sequential(
                nn.Conv2d(1, 2, 2, padding=1, bias=False), norm, activation(), nn.Flatten()
            )
        elif world.body == "tied":
            first, second, width = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES), FEATURES
            second.weight = first.weight
            self.body = nn.Sequential(first, activation(), second, activation())
        else:
            self.body = nn.Sequential(nn.Linear(FEATURES, width), activation())
        self.drop = nn.Dropout(world.dropout)
        self.head = nn.Linear(width, CLASSES)
        if world.body == "mlp":
            with torch.no_grad():
                self.body[0].bias[0] = -100.0  # a dead unit under ReLU, a saturated one otherwise
        if world.frozen:
            self.head.bias.requires_grad_(False)
        if world.unused:
            self.spare = nn.Parameter(torch.ones(2))
        if world.counter:
            self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.drop(self.body(x.view(-1, 1, 2, 2) if self.conv else x))
        if "count" in self._buffers:
            self.count = self.count + 1  # replaced, not changed in place
            hidden = hidden * (1 + 0.1 * self.count)
        answer: Tensor = self.head(hidden)
        return answer


def outer_module(kind: str) -> nn.Module:
    """Re-weighting, soft labels or a penalty, in float64 and away from its starting point."""
    if kind.startswith("cluster"):
        _, parameterization, normalize = kind.split()
        made: nn.Module = bilevel.ClusterWeights(
            3,
            parameterization=parameterization,
            normalize=normalize,  # type: ignore[arg-type]
        )
    elif kind == "sample":
        made = bilevel.SampleWeights(SAMPLES)
    elif kind == "labels":
        made = bilevel.SoftLabels(torch.arange(SAMPLES) % CLASSES, CLASSES, confidence=0.7)
    elif kind == "ridge":
        return zoo.Scale(2)
    else:
        made = bilevel.MetaWeightNet(3, detach=kind == "detached net")
    made = made.double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made


def pack(structure: str, x: Tensor, y: Tensor, index: Tensor) -> Any:
    """One batch in the given structure."""
    if structure == "tuple":
        return x, y, index
    if structure == "list":  # what a DataLoader yields
        return [x, y, index]
    if structure == "dict":
        return {"x": x, "y": y, "index": index, "note": None}
    return {"data": [x, (None, [y])], "more": ({"index": index}, "a name", None, 3)}


def unpack(batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors of a batch in any structure."""
    if isinstance(batch, (tuple, list)):
        x, y, index = batch
        return x, y, index
    if "x" in batch:
        assert batch["note"] is None
        return batch["x"], batch["y"], batch["index"]
    x, (nothing, (y,)) = batch["data"]
    assert nothing is None
    assert batch["more"][1:] == ("a name", None, 3)
    return x, y, batch["more"][0]["index"]


def losses(world: World) -> tuple[Callable[[Any, Any, Any], Tensor], Callable[[Any, Any, Any], Tensor]]:
    """The inner and the outer loss of one batch."""

    def inner(net: Net, outer: nn.Module, batch: Any) -> Tensor:
        x, y, index = unpack(batch)
        if world.outer == "labels":
            return F.cross_entropy(net(x), outer(index))
        loss = F.cross_entropy(net(x), y, reduction="none")
        if world.outer.startswith("cluster"):
            return (outer(index % 3) * loss).mean()
        if world.outer == "sample":
            return (outer(index) * loss).mean()
        if world.outer == "ridge":
            body = sum((p.square().sum() for p in net.body.parameters()), torch.zeros(()).double())
            return loss.mean() + 0.05 * (outer()[0] * net.head.weight.square().sum() + outer()[1] * body)
        return (outer(loss) * loss).mean()

    def final(net: Net, outer: nn.Module, batch: Any) -> Tensor:
        x, y, _ = unpack(batch)
        loss = F.cross_entropy(net(x), y)
        if world.direct:
            loss = loss + 0.1 * sum((p.sin().sum() for p in outer.parameters()), torch.zeros(()).double())
        return loss

    return inner, final


Part = tuple[float, Any]


@dataclass
class Built:
    """A world made real: `case` for the package, `plain` for real training, which knows no Batches."""

    case: zoo.Case
    plain: zoo.Case
    optimizer: torch.optim.Optimizer
    train: Any


def build(world: World, structure: str | None = None) -> Built:
    """The modules, the data and the optimiser with its live state; another structure of the same batches."""
    torch.manual_seed(world.seed)
    net, outer = Net(world).double(), outer_module(world.outer)
    parts = [_parts(world, structure or world.structure) for _ in range(world.steps)]
    vals = [pack(structure or world.structure, *_tensors(BATCH)) for _ in range(2 if world.two_vals else 1)]
    inner_loss, outer_loss = losses(world)

    def mean(loss: Callable[[Any, Any, Any], Tensor]) -> Callable[[Any, Any, list[Part]], Tensor]:
        return lambda net, outer, several: sum(  # type: ignore[return-value]
            weight * loss(net, outer, batch) for weight, batch in several
        )

    if world.handing == "one":
        parts = parts[:1] * world.steps
    plain = zoo.Case(
        mean(inner_loss), mean(outer_loss), net, outer, parts, [(1 / len(vals), one) for one in vals]
    )
    optimizer = make_optimizer(world, net)
    plain.train_live(optimizer, world.warm)
    _set_mode(world, net)
    steps = [_handed(several) for several in parts]
    train = steps[0] if world.handing == "one" else Batches(steps)
    case = zoo.Case(inner_loss, outer_loss, net, outer, steps, Batches(vals) if world.two_vals else vals[0])
    return Built(case, plain, optimizer, train)


def make_optimizer(world: World, net: nn.Module) -> torch.optim.Optimizer:
    """A torch.optim optimiser; frozen parameters belong to it too, as in most people's code."""
    name, settings = world.optimizer
    parameters = list(net.parameters())
    groups: Any = parameters
    if world.groups:
        # The second group has settings of its own, and is in no natural order.
        groups = [{"params": parameters[1:][::-1]}, {"params": parameters[:1], "lr": 0.5 * settings["lr"]}]
        groups[0]["lambd" if name == "ASGD" else "weight_decay"] = 0.03
    made: torch.optim.Optimizer = getattr(torch.optim, name)(groups, **settings)
    return made


def _tensors(size: int) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(size, FEATURES, dtype=torch.float64)
    return x, torch.randint(CLASSES, (size,)), torch.randint(SAMPLES, (size,))


def _parts(world: World, structure: str) -> list[Part]:
    """What one step looks at: batches with weights that add up to 1."""
    if world.handing != "micro":
        return [(1.0, pack(structure, *_tensors(BATCH)))]
    return [(size / 5, pack(structure, *_tensors(size))) for size in (3, 2)]


def _handed(parts: list[Part]) -> Any:
    if len(parts) == 1:
        return parts[0][1]
    return Batches([batch for _, batch in parts], [5 * weight for weight, _ in parts])


def _set_mode(world: World, net: Net) -> None:
    if world.mode == "eval":
        net.eval()
    elif world.mode == "mixed":
        net.body.eval()
