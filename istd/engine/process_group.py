"""How torchrun or the like has started this process, its device, and the group of all of them."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from ..errors import ConfigError
from .messages import Messages, end_group, naming_loss
from .ranks import Ranks
from .runtime import choose_device


def launched() -> tuple[int, int]:
    """(rank, number of processes) of this program, as torchrun or the like has started it; (0, 1) alone.

    Raises:
        ConfigError: the environment says something impossible.
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if any(name not in os.environ for name in names):
        return 0, 1
    rank, size = _whole_number("RANK"), _whole_number("WORLD_SIZE")
    if rank >= size:
        raise ConfigError(
            "the environment counts the processes wrongly",
            found=f"RANK={rank}, WORLD_SIZE={size}",
            expected="ranks from 0 to WORLD_SIZE − 1",
            fix="start with torchrun; or unset these variables, for a single process",
        )
    return rank, size


def rank_device(name: str) -> torch.device:
    """The device for `--device` in one of several processes; `auto` and `cuda` give each a GPU of its own.

    That is the GPU of its LOCAL_RANK, as torchrun numbers the processes of a machine; where a launcher does
    not say it, of the rank modulo the number of GPUs; and where a process sees a single one, that one.
    `open_ranks` refuses two processes on one GPU.

    Raises:
        ConfigError: as `choose_device` does; or there are not enough GPUs, or it is another kind of device.
    """
    rank, size = launched()
    if size == 1:
        return choose_device(name)
    own = name in ("auto", "cuda") and torch.cuda.is_available()
    device = choose_device("auto" if own else name)  # "cuda" would start the first GPU
    if own:
        count = torch.cuda.device_count()
        local = _whole_number("LOCAL_RANK") if "LOCAL_RANK" in os.environ else rank % count
        if count == 1:  # the launcher may show each process its own
            local = 0
        if local >= count:
            raise _no_own_gpu(f"process {local} of this machine, which has {count}")
        return torch.device("cuda", local)
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(
            "several processes cannot share a device",
            found=f"--device {name}",
            expected="auto or cuda, which give each process its own GPU, or cpu",
        )
    return device


@contextmanager
def open_ranks(device: torch.device, timeout: float) -> Iterator[Ranks]:
    """The processes of this program, for the time of the block; they all have to end it.

    A group that the program has made is used and left as it is, also after an error; else one is made here,
    and ended in any case.

    Args:
        device: of this process; on CUDA, messages between GPUs go through NCCL.
        timeout: seconds to wait for an answer of the others.

    Raises:
        ProcessError: another process has ended or does not answer.
        ConfigError: two processes have one GPU; or the program's own group cannot send what lies on `device`.
    """
    rank, size = launched()
    if size == 1:
        yield Ranks()
        return
    limit = timedelta(seconds=timeout)
    with _default_group(device, limit), _messages(limit) as messages:
        ranks = Ranks(rank, size, messages)
        if device.type == "cuda":
            _check_own(ranks.joined([_identity(device)]))
        yield ranks
        ranks.wait()


@contextmanager
def _default_group(device: torch.device, timeout: timedelta) -> Iterator[None]:
    if dist.is_initialized():
        _check_kind(device, dist.get_backend_config())
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with naming_loss():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    try:
        yield
    except BaseException:
        end_group(None, failed=True)
        raise
    end_group(None, failed=False)


@contextmanager
def _messages(timeout: timedelta) -> Iterator[Messages]:
    """Messages for the time of the block; what fails in it is named, and told to the others."""
    with naming_loss():
        messages = Messages(timeout)
    try:
        with messages.naming():
            yield messages
    except BaseException as error:
        messages.tell(error)
        messages.close(failed=True)
        raise
    messages.close(failed=False)


def _check_kind(device: torch.device, backends: str) -> None:
    """Raise unless the program's own group ("cuda:nccl" and the like) can send tensors of `device`."""
    kinds = [pair.partition(":")[0] for pair in backends.split(",")]
    if device.type not in kinds:
        raise ConfigError(
            f"the process group of this program cannot send tensors on {device.type}",
            found=backends,
            fix='make it by init_process_group("cpu:gloo,cuda:nccl"), leave it to istd, or change --device',
        )


def _identity(device: torch.device) -> str:
    """What tells one GPU from every other."""
    properties = torch.cuda.get_device_properties(device)
    return str(getattr(properties, "uuid", None) or f"{platform.node()} {device}")


def _check_own(gpus: list[str]) -> None:
    """Raise if two processes, which come in the order of their ranks, have the same GPU."""
    for rank, gpu in enumerate(gpus):
        other = gpus.index(gpu)
        if other < rank:
            raise _no_own_gpu(f"processes {other} and {rank} on {gpu}")


def _no_own_gpu(found: str) -> ConfigError:
    return ConfigError(
        "each process needs a GPU of its own",
        found=found,
        fix="start one process for each GPU of a machine, numbered by LOCAL_RANK as torchrun does; or use "
        "--device cpu",
    )


def _whole_number(name: str) -> int:
    """A number from 0 on in the environment."""
    text = os.environ[name]
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(
            f"{name} in the environment is not a number of processes or of one of them",
            found=repr(text),
            fix="start with torchrun; or unset it, for a single process",
        )
    return int(text)
