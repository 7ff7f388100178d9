"""What a process learns from its launcher, and what it does about it; see also test_training_processes.py."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from multiprocessing.connection import Connection
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from istd._batch_parts import BatchParts, in_parts
from istd.engine import messages, process_group
from istd.engine.process_group import launched, open_ranks, rank_device
from istd.engine.ranks import Ranks
from istd.errors import ConfigError, ModelError, ProcessError
from istd.models._joint_norm import JointBatchNorm2d, join_norms

LAUNCHER = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The last of four processes, on a machine with four GPUs."""
    for name, value in LAUNCHER.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    return monkeypatch


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_process_takes_the_gpu_of_its_local_rank(launcher: pytest.MonkeyPatch, name: str) -> None:
    launcher.setenv("LOCAL_RANK", "2")
    assert rank_device(name) == torch.device("cuda:2")
    assert rank_device("cpu") == torch.device("cpu")


def test_without_a_local_rank_it_takes_the_next_gpu_or_the_only_one(launcher: pytest.MonkeyPatch) -> None:
    assert rank_device("auto") == torch.device("cuda:3")
    launcher.setattr(torch.cuda, "device_count", lambda: 2)
    assert rank_device("auto") == torch.device("cuda:1")
    launcher.setattr(torch.cuda, "device_count", lambda: 1)
    launcher.setenv("LOCAL_RANK", "3")  # each process is shown its own
    assert rank_device("auto") == torch.device("cuda:0")


def test_too_few_gpus_are_named(launcher: pytest.MonkeyPatch) -> None:
    launcher.setenv("LOCAL_RANK", "2")
    launcher.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="process 2 of this machine, which has 2"):
        rank_device("auto")
    process_group._check_own(["a", "b", "c"])
    with pytest.raises(ConfigError, match="processes 1 and 2 on b"):
        process_group._check_own(["a", "b", "b"])


@pytest.mark.parametrize(
    ("name", "value"), [("RANK", "4"), ("RANK", "-1"), ("WORLD_SIZE", ""), ("RANK", "²")]
)
def test_an_environment_that_makes_no_sense_is_named(
    launcher: pytest.MonkeyPatch, name: str, value: str
) -> None:
    launcher.setenv(name, value)
    with pytest.raises(ConfigError, match="the environment"):
        launched()


def test_a_single_process_needs_no_launcher(launcher: pytest.MonkeyPatch) -> None:
    assert launched() == (3, 4)
    launcher.delenv("MASTER_PORT")
    assert launched() == (0, 1)


def test_a_group_that_cannot_send_from_the_device_is_named() -> None:
    process_group._check_kind(torch.device("cuda:1"), "cuda:nccl")
    process_group._check_kind(torch.device("cpu"), "cpu:gloo,cuda:nccl")
    with pytest.raises(ConfigError, match="cannot send tensors on cpu"):
        process_group._check_kind(torch.device("cpu"), "cuda:nccl")


@pytest.mark.parametrize(
    ("failed", "aborts", "calls"),
    [
        (False, True, ["destroy"]),
        (True, True, ["abort", "destroy"]),  # else NCCL would wait for kernels that wait for the others
        (True, False, []),  # the end of the process has to do
    ],
)
def test_a_failed_group_is_aborted_before_it_is_destroyed(
    monkeypatch: pytest.MonkeyPatch, failed: bool, aborts: bool, calls: list[str]
) -> None:
    done: list[str] = []
    world = SimpleNamespace(abort=lambda: done.append("abort")) if aborts else SimpleNamespace()
    fake = SimpleNamespace(
        group=SimpleNamespace(WORLD=world),
        get_backend_config=lambda group: "cpu:gloo,cuda:nccl",
        destroy_process_group=lambda group: done.append("destroy"),
    )
    monkeypatch.setattr(messages, "dist", fake)
    messages.end_group(None, failed)
    assert done == calls


def test_a_batch_that_cannot_be_shared_is_named() -> None:
    assert [Ranks(rank, 2).part_of(6) for rank in range(2)] == [(0, 3), (3, 3)]
    with pytest.raises(ConfigError, match="multiple of 3"):
        Ranks(1, 3).part_of(4)


def test_one_value_a_channel_is_refused_as_torch_does() -> None:
    plain, joint = nn.BatchNorm2d(3), JointBatchNorm2d(3)
    one = torch.rand(1, 3, 1, 1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        plain(one)
    with pytest.raises(ModelError, match="fewer than two values a channel"):
        joint(one)
    with in_parts(BatchParts(0, 2)), pytest.raises(ModelError, match="2 process"):
        joint(one[:0])
    assert torch.equal(joint.eval()(one), plain.eval()(one))
    assert torch.equal(joint.running_var, torch.ones(3))
    with pytest.raises(ModelError, match="BatchNorm1d at 0"):
        join_norms(nn.Sequential(nn.BatchNorm1d(2)))


def wait_for_the_first(rank: int, port: str, said: Connection) -> None:
    """One of two processes, of which the first works for ever."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    try:
        with open_ranks(torch.device("cpu"), 600) as ranks:
            said.send("began")
            ranks.on_first(time.sleep, 600)
    except ProcessError as error:
        said.send(str(error))


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and needs SIGKILL")
def test_that_a_process_at_work_dies_is_noticed_at_once() -> None:
    forks = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    pipes = [forks.Pipe(duplex=False) for _ in range(2)]
    processes = [
        forks.Process(target=wait_for_the_first, args=(rank, port, pipes[rank][1])) for rank in range(2)
    ]
    try:
        for process in processes:
            process.start()
        for said, _ in pipes:
            assert said.poll(60)
            assert said.recv() == "began"
        time.sleep(1.5)  # longer than a pulse
        assert all(process.is_alive() for process in processes)
        processes[0].kill()
        assert pipes[1][0].poll(30), "the other one waits for a dead process"
        assert "another process of this run has ended" in pipes[1][0].recv()
    finally:
        for process in processes:
            process.kill()
            process.join()
