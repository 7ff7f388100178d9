"""The problems: ordinary modules, two losses, fixed batches. The same seed gives the same problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bilevel

_BATCH = 200  # samples of a digits batch, inner and outer
_WRONG = 0.4  # share of wrong labels
CLUSTERS = 8


class UnavailableError(Exception):
    """A problem or a method cannot run here; the message says why, and becomes a row of the table."""


@dataclass
class Task:
    """A bilevel problem with the batches of its inner steps.

    Attributes:
        inner: the network.
        outer: the re-weighting module.
        inner_loss: `inner_loss(inner, outer, batch)`, as bilevel takes it.
        outer_loss: the same for the outer loss.
        train: one batch for each inner step.
        val: the outer batch.
        lr: of the inner SGD.
        momentum: of the inner SGD.
    """

    inner: nn.Module
    outer: nn.Module
    inner_loss: Callable[[Any, Any, Any], Tensor]
    outer_loss: Callable[[Any, Any, Any], Tensor]
    train: list[Any]
    val: Any
    lr: float = 0.1
    momentum: float = 0.9
    _live: list[Tensor] = field(default_factory=list)

    def optimizer(self) -> torch.optim.SGD:
        """A fresh inner optimiser."""
        return torch.optim.SGD(self.inner.parameters(), lr=self.lr, momentum=self.momentum)

    def save(self) -> None:
        """Remember parameters and buffers of both modules."""
        self._live = [value.detach().clone() for value in self._values()]

    def restore(self) -> None:
        """Put them back, for methods that work on the live modules."""
        with torch.no_grad():
            for value, saved in zip(self._values(), self._live, strict=True):
                value.copy_(saved)
                value.grad = None

    def _values(self) -> list[Tensor]:
        return [
            value
            for module in (self.inner, self.outer)
            for value in (*module.parameters(), *module.buffers())
        ]


def mlp() -> nn.Sequential:
    """64-512-10, 38 410 parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))


def cnn(norm: bool = False) -> nn.Sequential:
    """Two 3×3 convolutions of 32 and 64 channels with max-pooling; no bias before BatchNorm."""
    layers: list[nn.Module] = []
    for before, after in ((1, 32), (32, 64)):
        layers.append(nn.Conv2d(before, after, 3, padding=1, bias=not norm))
        layers += [nn.BatchNorm2d(after)] if norm else []
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 2 * 2, 10))


def _losses(per_sample: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> tuple[Any, Any, Any]:
    """The inner loss weighted by loss, the inner loss weighted by cluster, the outer loss."""

    def by_loss(model: nn.Module, weights: nn.Module, batch: Any) -> Tensor:
        losses = per_sample(model, batch[0], batch[1])
        return (weights(losses) * losses).mean()

    def by_cluster(model: nn.Module, weights: nn.Module, batch: Any) -> Tensor:
        return (weights(batch[2]) * per_sample(model, batch[0], batch[1])).mean()

    def outer(model: nn.Module, weights: nn.Module, batch: Any) -> Tensor:
        return per_sample(model, batch[0], batch[1]).mean()

    return by_loss, by_cluster, outer


def _cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y, reduction="none")


def _pixel_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(x), y, reduction="none").mean((1, 2, 3))


def _digits(network: Callable[[], nn.Module], clusters: bool = False) -> Callable[[int], Task]:
    """Digits of scikit-learn with 40 % wrong training labels, weighted by a 193-parameter meta-weight net.

    Weights are functions of the live losses (`detach=False`), so that the inner loss is an ordinary function
    of both levels and every exact method must give the same answer.
    """

    def build(steps: int) -> Task:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UnavailableError(f"the digits need scikit-learn ({error})") from error
        data = load_digits()
        images = torch.from_numpy(data.images).float()[:, None] / 16
        labels = torch.from_numpy(data.target).long()
        order = torch.randperm(len(images))
        val, train = order[:_BATCH], order[_BATCH:]
        noisy = labels.clone()
        wrong = train[: round(_WRONG * len(train))]
        noisy[wrong] = (labels[wrong] + torch.randint(1, 10, (len(wrong),))) % 10
        batches = []
        for _ in range(steps):
            chosen = train[torch.randperm(len(train))[:_BATCH]]
            cluster = torch.arange(_BATCH) % CLUSTERS
            batches.append((images[chosen], noisy[chosen], cluster))
        by_loss, by_cluster, outer_loss = _losses(_cross_entropy)
        return Task(
            network(),
            bilevel.ClusterWeights(CLUSTERS) if clusters else bilevel.MetaWeightNet(64, detach=False),
            by_cluster if clusters else by_loss,
            outer_loss,
            batches,
            (images[val], labels[val]),
        )

    return build


def _mlclnet(steps: int) -> Task:
    """MLCLNet on generated 64×64 images, batch 4, a weight for each of 8 clusters of images."""
    try:
        from istd.models import create_model
    except ImportError as error:
        raise UnavailableError(
            f"MLCLNet needs the extra: pip install 'bilevel-istd[istd]' ({error})"
        ) from error
    _, by_cluster, outer_loss = _losses(_pixel_loss)
    batches = [_spots(4, 64, step) for step in range(steps)]
    model = create_model("mlclnet")
    return Task(
        model,
        bilevel.ClusterWeights(CLUSTERS),
        by_cluster,
        outer_loss,
        batches,
        _spots(4, 64, 0)[:2],
        lr=0.01,
    )


def _spots(batch: int, size: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with one bright spot an image; its mask; the clusters, taking turns."""
    grid = torch.arange(size, dtype=torch.float32)
    y, x = torch.rand(2, batch, 1, 1) * (size - 8) + 4
    square = (grid[None, :, None] - y).square() + (grid[None, None, :] - x).square()
    image = 0.3 + 0.05 * torch.randn(batch, size, size) + 0.5 * torch.exp(-square / 4.5)
    cluster = (torch.arange(batch) + step * batch) % CLUSTERS
    return image.clamp(0, 1)[:, None].expand(-1, 3, -1, -1), (square < 6).float()[:, None], cluster


TASKS: dict[str, Callable[[int], Task]] = {
    "digits-mlp": _digits(mlp),
    "digits-cnn": _digits(cnn),
    "digits-cnn-bn": _digits(lambda: cnn(norm=True)),
    "digits-mlp-clusters": _digits(mlp, clusters=True),
    "mlclnet-64": _mlclnet,
}


def build(name: str, steps: int, dtype: torch.dtype, seed: int) -> Task:
    """A problem with batches for so many inner steps.

    Raises:
        UnavailableError: something it needs is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        task = TASKS[name](steps)
        task.inner.to(dtype)
        task.outer.to(dtype)
        task.train = [_cast(batch, dtype) for batch in task.train]
        task.val = _cast(task.val, dtype)
    return task


def _cast(batch: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(one.to(dtype) if one.is_floating_point() else one for one in batch)
