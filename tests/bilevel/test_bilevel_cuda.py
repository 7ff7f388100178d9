"""What differs on a GPU: its random generator, snapshots in CPU memory, its allocator, capturable steps."""

from __future__ import annotations

import copy
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
from torch import Tensor, nn

import bilevel
from bilevel import ForwardMode, Unrolled
from bilevel.diagnostics._memory import peak_bytes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def on_gpu(case: zoo.Case) -> zoo.Case:
    case.inner.cuda()
    case.outer.cuda()
    case.train = [tuple(one.cuda() for one in batch) for batch in case.train]
    case.val = tuple(one.cuda() for one in case.val)
    return case


def ask(case: zoo.Case, method: bilevel.HypergradientMethod, optimizer: Any) -> bilevel.Hypergradient:
    torch.manual_seed(3)  # CUDA generators too
    return case.solver(optimizer, method).hypergradient(bilevel.Batches(case.train[:3]), case.val)


def flat(found: bilevel.Hypergradient) -> Tensor:
    return torch.cat([one.flatten() for one in found.values()])


def test_dropout_on_the_gpu_is_replayed_and_its_generator_put_back() -> None:
    case = on_gpu(zoo.conv_net(dropout=0.5))
    optimizer = torch.optim.Adam(case.inner.parameters(), lr=0.02)
    adjoint = ask(case, Unrolled(3), optimizer)
    torch.manual_seed(3)
    before = torch.cuda.get_rng_state()
    case.solver(optimizer, Unrolled(3)).hypergradient(bilevel.Batches(case.train[:3]), case.val)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    for method in (
        Unrolled(3, mode="graph"),
        Unrolled(3, trajectory="checkpoints"),
        Unrolled(3, products="auto"),
        ForwardMode(3, walked_back=0),
    ):
        found = ask(case, method, optimizer)
        torch.testing.assert_close(flat(found), flat(adjoint), rtol=1e-8, atol=1e-12)
    torch.manual_seed(4)
    other = case.solver(optimizer, Unrolled(3)).hypergradient(bilevel.Batches(case.train[:3]), case.val)
    assert not torch.equal(other.outer_loss, adjoint.outer_loss)


@pytest.mark.parametrize("capturable", [False, True])
def test_snapshots_in_cpu_memory_come_back_to_where_they_were(capturable: bool) -> None:
    """With capturable the counts of steps lie on the GPU, as part of the optimiser's state."""
    case = on_gpu(zoo.reweighted_mlp())
    optimizer = torch.optim.Adam(case.inner.parameters(), lr=0.02, capturable=capturable)
    case.train_live(optimizer, 2)
    expected = ask(case, Unrolled(3), optimizer)
    found = ask(case, Unrolled(3, trajectory="cpu"), optimizer)
    torch.testing.assert_close(flat(found), flat(expected), rtol=1e-12, atol=0)
    assert all(one.is_cuda for one in found.values())


def test_capturable_counts_are_read_and_the_answer_is_that_of_the_cpu() -> None:
    answers = []
    for device, options in (("cpu", {}), ("cuda", {"capturable": True}), ("cuda", {"fused": True})):
        case = zoo.reweighted_mlp()
        if device == "cuda":
            on_gpu(case)
        optimizer = torch.optim.Adam(case.inner.parameters(), lr=0.02, **options)
        case.train_live(optimizer, 3)
        if device == "cuda":
            assert all(state["step"].is_cuda for state in optimizer.state.values())
        answers.append(flat(ask(case, Unrolled(3), optimizer)).cpu())
        live = copy.deepcopy(optimizer.state_dict())
        solver = case.solver(optimizer, Unrolled(1))
        solver.step(case.train[0], case.val)
        assert live["state"][0]["step"] == 3
        assert optimizer.state_dict()["state"][0]["step"] == 4
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], rtol=1e-8, atol=1e-12)


def test_peak_bytes_are_those_of_the_allocator() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    kept = torch.zeros(2**20, device=device)

    def call() -> Tensor:
        large = torch.ones(2**22, device=device)  # 16 MiB, gone before the answer is made
        total = large.sum()
        del large
        return total + torch.ones(2**18, device=device)

    found, peak = peak_bytes(call, [device])
    assert float(found[0]) == 2**22 + 1
    assert 2**24 <= peak < 2**24 + 2**21
    del kept


def test_compare_measures_on_the_gpu() -> None:
    case = on_gpu(zoo.reweighted_mlp(steps=1))
    case.inner = nn.Sequential(nn.Linear(4, 256), nn.Tanh(), nn.Linear(256, 3)).double().cuda()
    solver = case.solver(torch.optim.SGD(case.inner.parameters(), lr=0.1), bilevel.GaussNewton())
    methods = {str(steps): Unrolled(steps, mode="graph") for steps in (2, 12)}
    found = bilevel.compare(solver, methods, reference="2", batches=[(case.train[0], case.val)])
    assert found.memory == "CUDA allocator"
    assert found["12"].peak_bytes > 2 * found["2"].peak_bytes


def test_resume_is_bit_exact_with_dropout_on_the_gpu() -> None:
    def build() -> tuple[zoo.Case, bilevel.Solver]:
        case = on_gpu(zoo.conv_net(dropout=0.5))
        return case, case.solver(torch.optim.Adam(case.inner.parameters(), lr=0.02), Unrolled(2))

    case, solver = build()
    torch.manual_seed(5)
    solver.step(case.train[0], case.val)
    state = solver.state_dict()
    expected = solver.step(case.train[0], case.val)
    other, resumed = build()
    torch.manual_seed(99)
    resumed.load_state_dict(state)
    again = resumed.step(other.train[0], other.val)
    assert (again.inner_loss, again.outer_loss) == pytest.approx(
        (expected.inner_loss, expected.outer_loss), rel=1e-12
    )
