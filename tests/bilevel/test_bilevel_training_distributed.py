"""Two processes (torchrun, gloo, CPU) against one process on the joined batch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bilevel_processes
import pytest
import torch
import torch.distributed as dist
from bilevel_processes import METHODS, RUNS, build, run
from torch import Tensor

import bilevel
from bilevel import Batches, GaussNewton, Problem
from bilevel.distributed import Group, make_problem
from bilevel.errors import OptionError


def flattened(result: Any) -> Tensor:
    if isinstance(result, dict):
        return torch.cat([flattened(one) for one in result.values()])
    return result.double().flatten()


@pytest.mark.slow
def test_two_processes_equal_one_on_the_joined_batch(tmp_path: Path) -> None:
    """The second process starts from other weights: it must take those of the first."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    answer = subprocess.run(
        [*torchrun, "--nproc-per-node=2", bilevel_processes.__file__, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(bilevel.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-5000:]
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for problem, method in RUNS:
        name = f"{problem}/{method}"
        joined = run(problem, method, slice(0, 12))
        expected = flattened(joined)
        for rank in ranks:
            assert float((flattened(rank[name]) - expected).abs().max()) < 1e-6, name
            slope = flattened(joined["hypergradient"])
            assert float((flattened(rank[name]["hypergradient"]) - slope).norm()) < 1e-6 * slope.norm(), name
        assert torch.equal(flattened(ranks[0][name]), flattened(ranks[1][name])), name
        if method == "adjoint":  # one's own part alone is something else
            half = flattened(run(problem, method, slice(0, 6)))
            assert float((half - expected).abs().max()) > 1e-3, name


def test_a_group_needs_torch_distributed() -> None:
    case, _ = build("direct", METHODS["adjoint"])
    optimizer = torch.optim.SGD(case.inner.parameters(), lr=0.1)
    for group in (object(), "world"):
        with pytest.raises(OptionError, match="process_group"):
            case.solver(optimizer, GaussNewton(), process_group=group)


@pytest.fixture
def alone() -> Iterator[Group]:
    """A group of one process, which sends its messages to itself."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield Group(None)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(("problem", "method"), RUNS)
def test_messages_of_one_process_change_nothing(alone: Group, problem: str, method: str) -> None:
    """Every derivative passes through them, of the first and the second order, backwards and forwards."""
    case, solver = build(problem, METHODS[method])
    train = Batches(case.train[:3])
    solver.inner_step(train.at(0))
    losses = case.inner_loss, case.outer_loss, case.inner, case.outer
    expected, found = (
        bilevel.hypergradient(one, METHODS[method], train, case.val, optimizer=solver.inner_optimizer)
        for one in (Problem(*losses), make_problem(*losses, alone))
    )
    assert found.keys() == expected.keys()
    assert float(flattened(dict(expected)).abs().max()) > 0
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-15)
    assert float(found.outer_loss) == float(expected.outer_loss)
