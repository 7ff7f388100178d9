"""A batch in two parts, each in a thread of its own, is what one process makes of the whole batch.

Threads that send messages through a barrier stand for processes: quick, and derivatives of every order can be
held against those of the whole. `test_training_processes.py` trains in real processes.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from istd import _batch_parts
from istd._batch_parts import BatchParts, current_parts, in_parts
from istd.losses import task_loss
from istd.models._joint_norm import join_norms
from istd.models.repisdnet import PooledNorm

T = TypeVar("T")
PARTS = 2


class Exchange:
    """`all_reduce` between threads; each is told by its part who it is."""

    def __init__(self) -> None:
        self.meeting = threading.Barrier(PARTS, timeout=60)
        self.given: list[Tensor | None] = [None] * PARTS

    def all_reduce(self, tensor: Tensor) -> None:
        self.given[current_parts().rank] = tensor.clone()
        self.meeting.wait()
        total = self.given[0] + self.given[1]
        self.meeting.wait()  # nobody puts in something new before all have read
        tensor.copy_(total)


@pytest.fixture
def in_both(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], T]], list[T]]:
    """Call a function of the rank in two threads at once; what it returns in each."""
    exchange = Exchange()
    monkeypatch.setattr(_batch_parts.dist, "all_reduce", exchange.all_reduce)

    def run(work: Callable[[int], T]) -> list[T]:
        def one(rank: int) -> T:
            try:
                with in_parts(BatchParts(rank, PARTS)):
                    return work(rank)
            except BaseException:
                exchange.meeting.abort()  # else the other one would wait for it
                raise

        with ThreadPoolExecutor(PARTS) as pool:
            return list(pool.map(one, range(PARTS)))

    return run


def network() -> nn.Sequential:
    torch.manual_seed(0)
    convolution = nn.Conv2d(2, 3, 1)
    tail = [nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), PooledNorm(4), nn.Softplus()]
    return nn.Sequential(convolution, nn.BatchNorm2d(3, momentum=None), nn.Softplus(), *tail).double()


def differentiate(
    net: nn.Module, x: Tensor, y: Tensor, directions: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The gradient of a mean loss, and the derivative of its product with some directions."""
    weights = list(net.parameters())
    loss = (net(x) - y).square().mean()
    first = torch.autograd.grad(loss, weights, create_graph=True)
    along = sum((one * other).sum() for one, other in zip(first, directions, strict=True))
    second = torch.autograd.grad(along, weights, materialize_grads=True, allow_unused=True)
    return [one.detach() for one in first], list(second)


def test_batch_normalisation_of_the_parts_is_that_of_the_batch(in_both: Any) -> None:
    """Values, running statistics, gradients and second derivatives; the parts differ in mean and spread."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 2, 4, 5, generator=generator, dtype=torch.float64)
    x[3:] = 3 * x[3:] + 2
    y = torch.randn(6, 4, 1, 1, generator=generator, dtype=torch.float64)
    whole = network()
    directions = [torch.randn(one.shape, generator=generator).double() for one in whole.parameters()]
    split = [copy.deepcopy(whole) for _ in range(PARTS)]
    for net in split:
        join_norms(net)
    expected = differentiate(whole, x, y, directions)

    def work(rank: int) -> tuple[list[Tensor], list[Tensor]]:
        rows = slice(3 * rank, 3 * rank + 3)
        return differentiate(split[rank], x[rows], y[rows], directions)

    for order, parts in zip(expected, zip(*in_both(work), strict=True), strict=True):
        assert any(float(one.abs().max()) > 1e-3 for one in order)
        for one, first, second in zip(order, *parts, strict=True):
            torch.testing.assert_close((first + second) / PARTS, one, rtol=1e-9, atol=1e-12)
    for net in split:
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-12, atol=1e-14)
    assert int(split[0][1].num_batches_tracked) == 1


@pytest.mark.parametrize("kind", ["bce", "hard-bce", "soft-iou", "bce-iou", "focal"])
def test_losses_of_the_parts_are_that_of_the_batch(in_both: Any, kind: str) -> None:
    """The hard pixels and the annotated ones are spread unequally."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(4, 1, 5, 6, generator=generator, dtype=torch.float64)
    logits[:2] *= 4
    target = (torch.rand(4, 1, 5, 6, generator=generator, dtype=torch.float64) > 0.8).double()
    target[2:, :, :3] = 0.3

    def evaluate(rows: slice) -> tuple[Tensor, Tensor]:
        z = logits[rows].clone().requires_grad_()
        loss = task_loss(z, target[rows], kind).mean()
        return loss.detach(), torch.autograd.grad(loss, z)[0]

    expected, slope = evaluate(slice(4))
    found, slopes = zip(*in_both(lambda rank: evaluate(slice(2 * rank, 2 * rank + 2))), strict=True)
    torch.testing.assert_close(sum(found) / PARTS, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat(slopes) / PARTS, slope, rtol=1e-12, atol=1e-16)
    if kind in ("hard-bce", "focal"):  # a part by itself is something else
        alone = sum(evaluate(slice(2 * rank, 2 * rank + 2))[0] for rank in range(PARTS)) / PARTS
        assert abs(float(alone - expected)) > 1e-3 * float(expected)


def test_rows_and_means_of_the_batch(in_both: Any) -> None:
    rows = torch.arange(6.0).reshape(6, 1)

    def work(rank: int) -> tuple[Tensor, Tensor, list[Tensor]]:
        parts, mine = current_parts(), rows[3 * rank : 3 * rank + 3]
        values = [torch.tensor([1.0 + rank, 5.0]), torch.tensor(2.0 * rank, dtype=torch.float64)]
        parts.average(values)
        return parts.joined(mine), parts.own(parts.joined(mine)), values

    for rank, (joined, own, values) in enumerate(in_both(work)):
        assert torch.equal(joined, rows)
        assert torch.equal(own, rows[3 * rank : 3 * rank + 3])
        assert [value.tolist() for value in values] == [[1.5, 5.0], 1.0]
        assert [value.dtype for value in values] == [torch.float32, torch.float64]
