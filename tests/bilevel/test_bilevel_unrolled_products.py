"""Second-order products of the adjoint walk: by double backward, by forward over reverse, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
import torch.nn.functional as F
import torchopt
from torch import Tensor, nn

import bilevel
from bilevel import Batches, LearnedSettings, Unrolled, hypergradient
from bilevel.diagnostics._memory import LiveTensors
from bilevel.errors import BilevelError, DoubleBackwardError, NoForwardModeError, OptionError


def ask(case: zoo.Case, optimizer: object, train: Any, steps: int, **options: Any) -> bilevel.Hypergradient:
    torch.manual_seed(3)
    return hypergradient(case.problem(), Unrolled(steps, **options), train, case.val, optimizer=optimizer)


def assert_forward_equals_double(case: zoo.Case, optimizer: object, tolerance: float = 1e-9) -> None:
    train, steps = Batches(case.train), len(case.train)
    expected = ask(case, optimizer, train, steps)
    found = ask(case, optimizer, train, steps, products="forward-over-reverse")
    assert zoo.relative_error(found, expected) < tolerance
    assert torch.equal(found.inner_losses, expected.inner_losses)
    assert torch.equal(found.outer_loss, expected.outer_loss)
    assert found.notes == expected.notes == ()


@pytest.mark.parametrize("name", zoo.OPTIMIZERS)
@pytest.mark.parametrize("make", [zoo.dead_relu_mlp, zoo.conv_net, zoo.direct])
def test_forward_over_reverse_equals_double_backward(make: Callable[[], zoo.Case], name: str) -> None:
    case = make()
    optimizer = zoo.OPTIMIZERS[name](case.inner.parameters())
    case.train_live(optimizer, 2)
    assert_forward_equals_double(case, optimizer)


@pytest.mark.parametrize("optimizer", [torchopt.adamw(0.02), torchopt.sgd(0.1, momentum=0.9)])
def test_with_torchopt_and_dead_units(optimizer: object) -> None:
    assert_forward_equals_double(zoo.dead_relu_mlp(), optimizer)


@pytest.mark.parametrize("storage", ["cpu", "checkpoints"])
@pytest.mark.parametrize("options", [{}, {"truncate": 2}])
def test_same_bits_wherever_the_steps_are_kept(storage: str, options: dict[str, Any]) -> None:
    case = zoo.conv_net()
    optimizer = zoo.OPTIMIZERS["amsgrad"](case.inner.parameters())
    options = {"products": "forward-over-reverse", **options}
    kept = ask(case, optimizer, Batches(case.train), 4, **options)
    other = ask(case, optimizer, Batches(case.train), 4, trajectory=storage, **options)
    assert torch.equal(kept["logits"], other["logits"])
    double = ask(case, optimizer, Batches(case.train), 4, truncate=options.get("truncate"))
    assert zoo.relative_error(kept, double) < 1e-9


def test_learned_settings() -> None:
    case = zoo.reweighted_mlp()
    case.outer.register_parameter("log_lr", nn.Parameter(torch.tensor(-1.5, dtype=torch.float64)))
    optimizer = LearnedSettings(
        torch.optim.SGD(case.inner.parameters(), lr=0.1, momentum=0.5), lr=lambda outer: outer["log_lr"].exp()
    )
    assert_forward_equals_double(case, optimizer, 1e-12)


def test_tied_frozen_unused_and_alternating_parameters() -> None:
    case = zoo.reweighted_mlp()
    body = zoo.mlp(4, 4, 5)
    case.inner = nn.ModuleDict(
        {"body": body, "again": body[0], "even": zoo.mlp(5, 3), "odd": zoo.mlp(5, 3), "never": zoo.mlp(2, 2)}
    )
    body[2].bias.requires_grad_(False)
    case.outer.register_parameter("spare", nn.Parameter(torch.ones(2, dtype=torch.float64)))

    def inner_loss(net: nn.ModuleDict, weights: nn.Module, batch: Any) -> Tensor:
        step, (x, y, cluster) = batch
        head = net["odd" if step % 2 else "even"]
        return zoo.weighted_loss(nn.Sequential(net["again"], net["body"], head), weights, (x, y, cluster))

    case.inner_loss = inner_loss
    case.outer_loss = lambda net, weights, batch: zoo.plain_loss(
        nn.Sequential(net["body"], net["even"]), weights, batch
    )
    case.train = list(enumerate(case.train))
    trained = [p for p in case.inner.parameters() if p.requires_grad]
    for name in ("nesterov", "adam_l2"):
        optimizer = zoo.OPTIMIZERS[name](trained)
        case.train_live(optimizer, 1)
        assert_forward_equals_double(case, optimizer)


def test_what_a_loss_computes_without_grad_stays_a_constant() -> None:
    """torch.no_grad() alone would leave the tangents on."""
    case = zoo.reweighted_mlp()

    def inner_loss(net: nn.Module, weights: nn.Module, batch: Any) -> Tensor:
        x, y, cluster = batch
        losses = F.cross_entropy(net(x), y, reduction="none")
        with torch.no_grad():
            easy = F.softmax(-3 * F.cross_entropy(net(x), y, reduction="none"), 0)
        return (weights(cluster) * losses * easy).mean() + (losses.detach() * losses).mean()

    case.inner_loss = inner_loss
    assert_forward_equals_double(case, zoo.OPTIMIZERS["momentum"](case.inner.parameters()), 1e-12)


class WithoutForward(torch.autograd.Function):
    """Squares; can be differentiated twice, but not forwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * slope


def sampled(x: Tensor) -> Tensor:
    grid = torch.stack([x[:, :2].tanh(), x[:, 2:4].tanh()], 1)[:, None]
    image = x[:, None, None, :].expand(-1, 3, 4, -1)
    return F.grid_sample(image, grid, align_corners=False).mean((2, 3))


LACKING: dict[str, Callable[[Tensor], Tensor]] = {
    "custom function": WithoutForward.apply,
    "grid_sample": sampled,
    "cdist": lambda x: torch.cdist(x, x[:3] + 1.0)[:, :3],
    "huber": lambda x: F.huber_loss(x, x.detach() + 0.3, reduction="none")[:, :3],
}


class Through(nn.Module):
    """An operator as a module."""

    def __init__(self, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        return self.operator(x)


@pytest.mark.parametrize("name", LACKING)
def test_an_operator_without_forward_mode_is_named_or_double_backward_steps_in(name: str) -> None:
    case = zoo.reweighted_mlp()
    case.inner = zoo.mlp(4, 4)
    case.inner.extend([Through(LACKING[name]), nn.LazyLinear(3, dtype=torch.float64)])
    case.inner(case.train[0][0])
    optimizer = zoo.OPTIMIZERS["adamw"](case.inner.parameters())
    train = Batches(case.train)
    with pytest.raises(NoForwardModeError, match="double-backward"):
        ask(case, optimizer, train, 5, products="forward-over-reverse")
    found = ask(case, optimizer, train, 5, products="auto")
    (note,) = found.notes
    assert note.startswith("products by double backward")
    assert zoo.relative_error(found, ask(case, optimizer, train, 5, mode="graph")) < 1e-9
    solver = case.solver(optimizer, Unrolled(5, products="auto"))
    assert solver.step(train, case.val).notes == (note,)


class Neither(torch.autograd.Function):
    """Squares; can be differentiated once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * slope


def test_an_operator_with_neither_is_named() -> None:
    case = zoo.reweighted_mlp()
    case.inner.append(Through(Neither.apply))
    optimizer = zoo.OPTIMIZERS["sgd"](case.inner.parameters())
    for train in (case.train[0], Batches([Batches(case.train[:2])])):
        for products in ("auto", "double-backward"):
            with pytest.raises(DoubleBackwardError, match="weighted_loss"):
                ask(case, optimizer, train, 2, products=products)


@pytest.mark.parametrize("name", ["momentum", "adamw"])
@pytest.mark.parametrize("make", [zoo.dead_relu_mlp, zoo.conv_net])
@pytest.mark.parametrize(
    "options", [{}, {"products": "auto"}, {"trajectory": "checkpoints"}, {"truncate": 2}]
)
def test_steps_of_several_batches_equal_one_graph_over_all(
    make: Any, name: str, options: dict[str, Any]
) -> None:
    """Buffers evolve and masks are drawn from batch to batch; single batches may stand among them."""
    case = make(steps=7)
    optimizer = zoo.OPTIMIZERS[name](case.inner.parameters())
    case.train_live(optimizer, 1)
    nested = Batches([Batches(case.train[3:5]), case.train[5]], [1.0, 3.0])
    train = Batches([Batches(case.train[:2], [1.0, 2.0]), case.train[2], nested])
    expected = ask(case, optimizer, train, 3, mode="graph", truncate=options.get("truncate"))
    found = ask(case, optimizer, train, 3, **options)
    assert zoo.relative_error(found, expected) < 1e-9
    torch.testing.assert_close(found.inner_losses, expected.inner_losses, rtol=1e-12, atol=0)


@pytest.mark.parametrize("products", ["double-backward", "forward-over-reverse"])
@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_memory_does_not_grow_with_the_number_of_micro_batches(products: str, name: str) -> None:
    case = zoo.reweighted_mlp()
    case.inner = zoo.mlp(4, 16, 16, 3)
    optimizer = zoo.OPTIMIZERS[name](case.inner.parameters())
    x, y, cluster = (torch.cat([one[i] for one in case.train] * 4) for i in range(3))
    known = [*case.inner.parameters(), *case.outer.parameters(), x, y, cluster]

    def peak(count: int, **options: Any) -> int:
        parts = [(x[i : i + 45], y[i : i + 45], cluster[i : i + 45]) for i in [0, 45, 90, 135] * (count // 4)]
        with LiveTensors(known) as live:
            ask(case, optimizer, Batches([Batches(parts)]), 2, **options)
        return live.peak

    assert peak(8, products=products) <= 1.02 * peak(4, products=products)
    assert peak(8, mode="graph") > 1.5 * peak(4, mode="graph")


@pytest.mark.parametrize("options", [{"products": "both"}, {"mode": "graph", "products": "auto"}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="products") as error:
        Unrolled(2, **options)
    assert isinstance(error.value, BilevelError)
