"""What each of two processes does; run by torchrun, with the folder for the results as argument."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import bilevel_zoo as zoo
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import bilevel
from bilevel import (
    SAMA,
    Batches,
    ConjugateGradient,
    FiniteDifference,
    ForwardMode,
    GaussNewton,
    Identity,
    Implicit,
    OnlineReweighting,
    Penalty,
    SampleWeights,
    Unrolled,
)
from bilevel.distributed import find_group
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
    "finite difference": FiniteDifference(0.1),
    "identity": Identity(0.1),
    "sama": SAMA(),
    "sama exact": SAMA("exact"),
    "penalty": Penalty(10.0, 2, 0.05),
}
ESTIMATES = ("finite difference", "identity", "sama", "sama exact", "penalty")
RUNS = [
    *(("direct", method) for method in METHODS if method not in ESTIMATES),
    *(("weighted", method) for method in ("adjoint", "tangents", "implicit", "gauss-newton", *ESTIMATES)),
]


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


def problem(name: str) -> zoo.Case:
    """λ in the outer loss too; or one weight for each of three groups, not normalised over the batch."""
    if name == "direct":
        return zoo.direct()
    case = zoo.reweighted_mlp()
    case.outer = SampleWeights(3).double()
    torch.manual_seed(1)
    classes = torch.randint(3, (6, 12))
    data = [(torch.randn(12, 4, dtype=torch.float64), one, torch.arange(12) % 3) for one in classes]
    case.train, case.val = data[:5], data[5][:2]
    return case


def build(name: str, method: Any, seed: int = 0) -> tuple[zoo.Case, bilevel.Solver]:
    case = problem(name)
    torch.manual_seed(seed)
    case.inner = WithUnused(zoo.mlp(4, 5, 1 if name == "direct" else 3))
    optimizer = torch.optim.AdamW(case.inner.parameters(), lr=0.02, weight_decay=0.1)
    solver = case.solver(
        optimizer,
        method,
        inner_steps=2,
        inner_clip=bilevel.ClipNorm(0.5),
        outer_optimizer=torch.optim.Adam(case.outer.parameters(), lr=0.05),
    )
    return case, solver


def run(name: str, method: str, part: slice, seed: int = 0) -> dict[str, Any]:
    """A hypergradient and two steps, each on a part of the batches."""
    case, solver = build(name, METHODS[method], seed)
    train = Batches([tuple(one[part] for one in batch) for batch in case.train[:3]])
    val = tuple(one[part] for one in case.val)
    # A step of the optimiser first: before it Adam hardly answers to the length of a gradient.
    solver.inner_step(train.at(0))
    hypergradient = solver.hypergradient(train, val)
    infos = [solver.step(train, val) for _ in range(2)]
    return {
        "hypergradient": dict(hypergradient),
        "inner": case.inner.state_dict(),
        "outer": case.outer.state_dict(),
        "losses": torch.tensor([(info.inner_loss, info.outer_loss) for info in infos]),
    }


def refuse(rank: int) -> None:
    """What several processes cannot do is an error in each of them, not a deadlock."""
    case, solver = build("direct", METHODS["adjoint"])
    x, y = case.val
    halves = Batches([(x[:6], y[:6]), (x[6:], y[6:])])
    with pytest.raises(BatchError, match="different numbers of batches"):
        solver.hypergradient(Batches([halves]) if rank else case.val, case.val)
    with pytest.raises(OptionError, match="chunk_size=1"):
        bilevel.hypergradient(
            solver.problem, ForwardMode(2, None), case.val, case.val, optimizer=solver.inner_optimizer
        )
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

    def squares(net: Any, batch: Any) -> Tensor:
        return (net(batch[0])[:, 0] - batch[1]).square()

    losses = squares, lambda net, batch: squares(net, batch).mean()
    with pytest.raises(OptionError, match="process_group=None"):
        OnlineReweighting(*losses, case.inner)(case.val, case.val)
    alone = OnlineReweighting(*losses, case.inner, process_group=None)((x[rank:], y[rank:]), case.val)
    assert alone.shape == (12 - rank,)


def begin(rank: int) -> None:
    """All start from the parameters of the first process, however each one's lie in memory."""
    torch.manual_seed(rank)
    module = nn.Module()
    module.part = nn.Parameter(torch.randn(4, 6)[:, :3])
    layout = torch.channels_last if rank else torch.contiguous_format
    module.image = nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=layout))
    group = find_group("auto")
    assert group is not None
    group.share_start(module)
    for parameter in module.parameters():
        found = [torch.zeros(parameter.shape) for _ in range(2)]
        dist.all_gather(found, parameter.detach().contiguous())
        assert torch.equal(*found)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")  # torchrun says where and as which
    rank = dist.get_rank()
    try:
        part = slice(6 * rank, 6 * rank + 6)
        results = {"/".join(one): run(*one, part, seed=rank) for one in RUNS}
        refuse(rank)
        begin(rank)
        torch.save(results, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
