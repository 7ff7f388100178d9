"""Problem: pure functions from ordinary modules; and what a hypergradient must leave alone."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from bilevel import (
    Batches,
    ConjugateGradient,
    GaussNewton,
    HypergradientMethod,
    Implicit,
    Neumann,
    Problem,
    Unrolled,
    hypergradient,
)
from bilevel.errors import BatchError, OptionError, ParameterError

METHODS: dict[str, HypergradientMethod] = {
    "adjoint": Unrolled(3),
    "graph": Unrolled(3, mode="graph"),
    "truncated": Unrolled(3, truncate=1),
    "conjugate gradient": Implicit(ConjugateGradient(3, damping=5.0)),
    "neumann": Implicit(Neumann(0.01, 3, damping=5.0)),
    "gauss-newton": GaussNewton(),
}


def fingerprint(case: zoo.Case, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    named = [(f"{i}.{n}", m, n) for i, m in enumerate((case.inner, case.outer)) for n in m.state_dict()]
    return {
        "state": {key: module.state_dict()[name].clone() for key, module, name in named},
        "version": [t._version for m in (case.inner, case.outer) for t in (*m.parameters(), *m.buffers())],
        "identity": [id(t) for m in (case.inner, case.outer) for t in (*m.parameters(), *m.buffers())],
        "requires": [p.requires_grad for m in (case.inner, case.outer) for p in m.parameters()],
        "grad": [
            None if p.grad is None else (id(p.grad), p.grad.clone())
            for m in (case.inner, case.outer)
            for p in m.parameters()
        ],
        "mode": [module.training for m in (case.inner, case.outer) for module in m.modules()],
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "rng": torch.get_rng_state(),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("make", [zoo.OPTIMIZERS["nesterov"], zoo.OPTIMIZERS["amsgrad"]])
def test_nothing_live_changes(name: str, make: zoo.Optimizer) -> None:
    case = zoo.conv_net()
    optimizer = make(case.inner.parameters())
    case.train_live(optimizer, 1)
    case.inner[1].eval()  # a mixture of modes
    for parameter in (*case.inner.parameters(), *case.outer.parameters()):
        parameter.grad = torch.randn_like(parameter)
    next(case.inner.parameters()).grad = None
    problem = case.problem()
    before = fingerprint(case, optimizer)
    with torch.no_grad():  # the caller's grad mode does not matter
        hypergradient(problem, METHODS[name], case.train[0], case.val, optimizer=optimizer)
    after = fingerprint(case, optimizer)
    for key, value in before.items():
        assert same(value, after[key]), key


@pytest.mark.parametrize("name", METHODS)
def test_nothing_live_changes_when_a_loss_fails(name: str) -> None:
    case = zoo.conv_net()
    optimizer = zoo.OPTIMIZERS["momentum"](case.inner.parameters())
    case.train_live(optimizer, 1)
    calls = 0
    inner_loss = case.inner_loss

    def failing(*args: Any) -> Tensor:
        nonlocal calls
        calls += 1
        loss = inner_loss(*args)
        if calls == (2 if name in ("adjoint", "graph", "truncated") else 1):
            raise ZeroDivisionError
        return loss

    case.inner_loss = failing
    before = fingerprint(case, optimizer)
    with pytest.raises(ZeroDivisionError):
        hypergradient(case.problem(), METHODS[name], case.train[0], case.val, optimizer=optimizer)
    after = fingerprint(case, optimizer)
    for key, value in before.items():
        assert same(value, after[key]), key


@pytest.mark.parametrize("name", METHODS)
def test_answer_has_names_shapes_and_types_of_the_outer_parameters(name: str) -> None:
    case = zoo.conv_net()
    optimizer = zoo.OPTIMIZERS["sgd"](case.inner.parameters())
    found = hypergradient(case.problem(), METHODS[name], case.train[0], case.val, optimizer=optimizer)
    expected = dict(case.outer.named_parameters())
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value.shape == expected[key].shape
        assert value.dtype == expected[key].dtype
        assert not value.requires_grad
    assert found.outer_loss.shape == ()
    assert found.inner_losses.shape == (3 if name in ("adjoint", "graph", "truncated") else 1,)


def test_losses_are_pure_functions() -> None:
    case = zoo.conv_net(dropout=0.0)
    problem = case.problem()
    before = copy.deepcopy(case.inner.state_dict())
    buffers = {name: buffer.clone() for name, buffer in problem.buffers().items()}
    inner = {name: torch.randn_like(p) for name, p in problem.inner_parameters().items()}
    loss, after = problem.inner_loss(inner, {"logits": torch.ones(3).double()}, buffers, case.train[0])
    again, _ = problem.inner_loss(inner, {"logits": torch.ones(3).double()}, buffers, case.train[0])
    assert torch.equal(loss, again)
    assert same(before, case.inner.state_dict())
    assert int(after["inner.1.num_batches_tracked"]) == int(buffers["inner.1.num_batches_tracked"]) + 1
    assert not torch.equal(after["inner.1.running_mean"], buffers["inner.1.running_mean"])
    twin = copy.deepcopy(case.inner)
    twin.load_state_dict(inner, strict=False)
    torch.testing.assert_close(case.inner_loss(twin, case.outer, case.train[0]), loss)
    torch.testing.assert_close(twin[1].running_var, after["inner.1.running_var"])
    outer, _ = problem.outer_loss({}, {}, buffers, case.val)  # those left out are the live ones
    torch.testing.assert_close(outer, case.outer_loss(copy.deepcopy(case.inner), case.outer, case.val))


def test_a_buffer_that_is_replaced_evolves_too() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.zeros(()))
            self.register_buffer("constant", torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            self.steps = self.steps + 1
            return x * (1 + 0.1 * self.steps)

    case = zoo.reweighted_mlp()
    case.inner.append(Counter())
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    for mode in ("adjoint", "graph"):
        found = hypergradient(
            case.problem(), Unrolled(5, mode=mode), Batches(case.train), case.val, optimizer=optimizer
        )
        assert zoo.relative_error(found, zoo.central_differences(case, optimizer, 5)) < 1e-6
    assert float(case.inner[3].steps) == 0


class Tied(nn.Module):
    """Encoder and decoder share one weight; one module is used twice under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 4)
        self.decoder = nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight
        self.norm = nn.BatchNorm1d(4, affine=False)
        self.again = self.norm
        self.same_encoder = self.encoder
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.tanh(self.encoder(x)))
        return self.head(torch.tanh(self.decoder(self.again(self.same_encoder(x)))))


@pytest.mark.parametrize("name", ["momentum", "adamw"])
@pytest.mark.parametrize("mode", ["adjoint", "graph"])
def test_tied_weights_and_shared_modules(name: str, mode: Any) -> None:
    case = zoo.reweighted_mlp()
    case.inner = Tied().double()
    problem = case.problem()
    assert list(problem.inner_parameters()) == [
        "encoder.weight",
        "encoder.bias",
        "decoder.bias",
        "head.weight",
        "head.bias",
    ]
    optimizer = zoo.OPTIMIZERS[name](case.inner.parameters())
    case.train_live(optimizer, 1)
    found = hypergradient(
        problem, Unrolled(4, mode=mode), Batches(case.train[:4]), case.val, optimizer=optimizer
    )
    assert zoo.relative_error(found, zoo.central_differences(case, optimizer, 4)) < 1e-6
    assert case.inner.decoder.weight is case.inner.encoder.weight
    assert case.inner.again is case.inner.norm


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_frozen_and_unused_parameters(name: str) -> None:
    case = zoo.reweighted_mlp()
    case.inner.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    case.outer.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    case.outer.register_parameter("frozen", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    case.outer.frozen.requires_grad_(False)
    optimizer = zoo.OPTIMIZERS[name](case.inner.parameters())
    problem = case.problem()
    case.inner[0].weight.requires_grad_(False)  # frozen after the problem was built
    assert "0.weight" not in problem.inner_parameters()
    found = hypergradient(problem, Unrolled(5), Batches(case.train), case.val, optimizer=optimizer)
    assert list(found) == ["unused", "logits"] or list(found) == ["logits", "unused"]
    assert torch.equal(found["unused"], torch.zeros(2, dtype=torch.float64))
    expected = zoo.central_differences(case, optimizer, 5)
    assert zoo.relative_error({"logits": found["logits"]}, {"logits": expected["logits"]}) < 1e-6


def test_a_parameter_of_both_modules_is_outer() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = zoo.mlp(4, 5, 3)
            self.temperature = zoo.Scale(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) * self.temperature()

    case = zoo.reweighted_mlp()
    model = Model()
    case.inner, case.outer = model, model.temperature
    case.inner_loss = lambda m, s, b: F.cross_entropy(m(b[0]), b[1])
    problem = case.problem()
    assert list(problem.outer_parameters()) == ["log"]
    assert all(name.startswith("body.") for name in problem.inner_parameters())
    optimizer = torch.optim.SGD(model.body.parameters(), lr=0.2, momentum=0.5)
    found = hypergradient(problem, Unrolled(5), Batches(case.train), case.val, optimizer=optimizer)
    assert zoo.relative_error(found, zoo.central_differences(case, optimizer, 5)) < 1e-6


def test_activation_checkpointing_in_the_modules() -> None:
    class Checkpointed(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = checkpoint(self.body, x, use_reentrant=False)
            return y

    case = zoo.reweighted_mlp()
    case.inner.insert(1, nn.Dropout(0.3))
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.3, momentum=0.9)
    methods = (Unrolled(4), Unrolled(1), Implicit(ConjugateGradient(4, damping=3.0)), GaussNewton())
    torch.manual_seed(0)
    expected = [
        hypergradient(case.problem(), method, case.train[0], case.val, optimizer=optimizer)
        for method in methods
    ]
    case.inner = Checkpointed(case.inner)
    for method, one in zip(methods, expected, strict=True):
        torch.manual_seed(0)
        found = hypergradient(case.problem(), method, case.train[0], case.val, optimizer=optimizer)
        assert zoo.relative_error(found, one) < 1e-12


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("outside", [True, False])
def test_autocast(name: str, outside: bool) -> None:
    case = zoo.reweighted_mlp()
    case.inner.float()
    case.outer.float()
    case.train = [(x.float(), y, c) for x, y, c in case.train]
    case.val = (case.val[0].float(), case.val[1])
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    expected = hypergradient(case.problem(), METHODS[name], case.train[0], case.val, optimizer=optimizer)
    seen: list[torch.dtype] = []
    case.inner.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    if outside:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = hypergradient(case.problem(), METHODS[name], case.train[0], case.val, optimizer=optimizer)
    else:

        def under(loss: Any) -> Any:
            def wrapped(*args: Any) -> Tensor:
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    result: Tensor = loss(*args)
                    return result

            return wrapped

        case.inner_loss, case.outer_loss = under(case.inner_loss), under(case.outer_loss)
        found = hypergradient(case.problem(), METHODS[name], case.train[0], case.val, optimizer=optimizer)
    assert set(seen) == {torch.bfloat16}
    assert found["logits"].dtype == torch.float32
    assert zoo.relative_error(found, expected) < 0.2


class Bf16Outputs(TorchDispatchMode):
    """Remembers, weakly, every low-precision tensor that an operator made."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype == torch.bfloat16:
            self.seen.append(weakref.ref(result))
        return result


@pytest.mark.parametrize("name", METHODS)
def test_autocast_of_the_caller_neither_hoards_casts_nor_reaches_the_backward_pass(name: str) -> None:
    case = zoo.reweighted_mlp()
    case.inner.float()
    case.outer.float()
    case.train = [(x.float(), y, c) for x, y, c in case.train]
    case.val = (case.val[0].float(), case.val[1])
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    problem = case.problem()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with Bf16Outputs() as low:
            hypergradient(problem, METHODS[name], case.train[0], case.val, optimizer=optimizer)
        gc.collect()
        assert low.seen
        assert not [one for one in low.seen if one() is not None]

    expected = hypergradient(problem, METHODS[name], case.train[0], case.val, optimizer=optimizer)

    def exact(loss: Any) -> Any:
        def wrapped(*args: Any) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                result: Tensor = loss(*args)
                return result

        return wrapped

    case.inner_loss, case.outer_loss = exact(case.inner_loss), exact(case.outer_loss)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = hypergradient(case.problem(), METHODS[name], case.train[0], case.val, optimizer=optimizer)
    assert torch.equal(found["logits"], expected["logits"])


def test_batches_and_ambiguous_lists() -> None:
    case = zoo.reweighted_mlp()
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    problem = case.problem()
    expected = hypergradient(problem, Unrolled(2), case.train[0], case.val, optimizer=optimizer)
    # What a DataLoader yields is a list of tensors, and one batch.
    found = hypergradient(problem, Unrolled(2), list(case.train[0]), list(case.val), optimizer=optimizer)
    assert torch.equal(found["logits"], expected["logits"])
    with pytest.raises(BatchError, match=r"Batches\(\[\.\.\.\]\)"):
        hypergradient(problem, Unrolled(2), case.train[:2], case.val, optimizer=optimizer)
    with pytest.raises(BatchError, match="empty list"):
        hypergradient(problem, Unrolled(2), [], case.val, optimizer=optimizer)
    with pytest.raises(BatchError, match="no batch"):
        Batches([])
    loader = DataLoader(TensorDataset(*case.val), batch_size=4)
    for given, kind in ((loader, "DataLoader"), (iter(loader), "DataLoaderIter"), (zip(case.train), "zip")):
        with pytest.raises(BatchError, match=rf"gives batches\n  found: .*{kind}[\s\S]*next\(iter\("):
            hypergradient(problem, Unrolled(2), given, case.val, optimizer=optimizer)
    assert len(Batches(iter(case.train))) == 5


def test_bad_modules_are_refused() -> None:
    net, weights = nn.Linear(1, 1), nn.Linear(1, 1)
    with pytest.raises(OptionError, match="outer: not a torch"):
        Problem(zoo.plain_loss, zoo.plain_loss, net, {"a": torch.ones(1)})  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="outer_loss: not callable"):
        Problem(zoo.plain_loss, None, net, weights)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=r"outer \(Linear\)"):
        Problem(zoo.plain_loss, zoo.plain_loss, net, nn.Linear(1, 1).requires_grad_(False))
    with pytest.raises(ParameterError, match="inner"):
        Problem(zoo.plain_loss, zoo.plain_loss, net, net)


def test_parameters_without_a_shape_or_a_gradient_are_refused() -> None:
    with torch.inference_mode():
        inferred = nn.Linear(3, 1)
    for inner, what in ((nn.LazyLinear(1), "lazy parameter"), (inferred, "inference mode")):
        with pytest.raises(ParameterError, match=rf"inner\.weight: a .*{what}"):
            Problem(zoo.plain_loss, zoo.plain_loss, inner, nn.Linear(1, 1))
