"""Two processes (gloo, CPU) against one process on the joined batch."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import bilevel
from bilevel import Batches, ConjugateGradient, ForwardMode, GaussNewton, Implicit, Unrolled
from bilevel.errors import BatchError, OptionError

METHODS: dict[str, Any] = {
    "adjoint": Unrolled(3),
    "truncated": Unrolled(3, truncate=2),
    "graph": Unrolled(3, mode="graph"),
    "forward-over-reverse": Unrolled(3, products="forward-over-reverse"),
    "tangents": ForwardMode(3, walked_back=0),
    "tangents and adjoint": ForwardMode(3, walked_back=2),
    "implicit": Implicit(ConjugateGradient(8, damping=2.0)),
    "gauss-newton": GaussNewton(),
}


class WithUnused(nn.Module):
    """A network with a head that no loss uses: its gradient is absent, not zero."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.unused = nn.Linear(2, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def __getitem__(self, index: int) -> Any:
        return self.body[index]  # type: ignore[index]


def build(name: str, seed: int = 0) -> tuple[zoo.Case, bilevel.Solver]:
    case = zoo.direct()
    torch.manual_seed(seed)
    case.inner = WithUnused(zoo.mlp(4, 5, 1))
    optimizer = torch.optim.AdamW(case.inner.parameters(), lr=0.02, weight_decay=0.1)
    solver = case.solver(
        optimizer,
        METHODS[name],
        inner_steps=2,
        inner_clip=bilevel.ClipNorm(0.5),
        outer_optimizer=torch.optim.Adam(case.outer.parameters(), lr=0.05),
    )
    return case, solver


def run(name: str, part: slice, seed: int = 0) -> dict[str, Any]:
    case, solver = build(name, seed)
    train = Batches([(x[part], y[part]) for x, y in case.train[:3]])
    val = tuple(one[part] for one in case.val)
    hypergradient = solver.hypergradient(train, val)["log"]
    infos = [solver.step(train, val) for _ in range(2)]
    return {
        "hypergradient": hypergradient,
        "inner": case.inner.state_dict(),
        "outer": case.outer.state_dict(),
        "losses": torch.tensor([(info.inner_loss, info.outer_loss) for info in infos]),
    }


def refuse(case: zoo.Case, solver: bilevel.Solver, rank: int) -> None:
    """What several processes cannot do is an error in each of them, not a deadlock."""
    x, y = case.val
    halves = Batches([(x[:6], y[:6]), (x[6:], y[6:])])
    with pytest.raises(BatchError, match="different numbers of batches"):
        solver.hypergradient(Batches([halves]) if rank else case.val, case.val)
    problem, optimizer = solver.problem, solver.inner_optimizer
    with pytest.raises(OptionError, match="chunk_size=1"):
        bilevel.hypergradient(problem, ForwardMode(2, None), case.val, case.val, optimizer=optimizer)


def worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        results = {name: run(name, slice(6 * rank, 6 * rank + 6), seed=rank) for name in METHODS}
        case, solver = build("adjoint")
        refuse(case, solver, rank)
        with pytest.raises(OptionError, match="bare module"):
            bilevel.Solver(
                case.inner_loss,
                case.outer_loss,
                inner=DistributedDataParallel(case.inner),
                outer=case.outer,
                inner_optimizer=torch.optim.SGD(case.inner.parameters(), lr=0.1),
                outer_optimizer=torch.optim.SGD(case.outer.parameters(), lr=0.1),
                hypergradient=GaussNewton(),
            )
        torch.save(results, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def flattened(result: Any) -> Tensor:
    if isinstance(result, dict):
        return torch.cat([flattened(one) for one in result.values()])
    return result.double().flatten()


def test_two_processes_equal_one_on_the_joined_batch(tmp_path: Path) -> None:
    """The second process starts from other weights: it must take those of the first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(worker, (port, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name in METHODS:
        expected = flattened(run(name, slice(0, 12)))
        for rank in ranks:
            found = flattened(rank[name])
            assert float((found - expected).abs().max()) < 1e-6, name
            assert float((found - expected).norm() / expected.norm()) < 1e-6, name
        assert torch.equal(flattened(ranks[0][name]), flattened(ranks[1][name])), name
        half = flattened(run(name, slice(0, 6)))
        assert float((half - expected).abs().max()) > 1e-3, name  # one's own part alone is something else


def test_a_group_needs_torch_distributed() -> None:
    case, _ = build("adjoint")
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    for group in (object(), "world"):
        with pytest.raises(OptionError, match="process_group"):
            case.solver(optimizer, GaussNewton(), process_group=group)
