"""Settings of the machine: where to run, repeatable kernels, and an allocator that wastes less time."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from ..errors import ConfigError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30


def tune_allocator() -> bool:
    """Let glibc keep big blocks instead of returning them after every step; True where it took effect.

    By default each step gives its activations back to the kernel and faults them in again. Set
    `ISTD_TUNE_ALLOCATOR=0` to leave the allocator alone.
    """
    if sys.platform != "linux" or os.environ.get("ISTD_TUNE_ALLOCATOR", "1") == "0":
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        mallopt = libc.mallopt
    except (OSError, AttributeError):  # musl, for one, has no mallopt
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES))


def choose_device(name: str) -> torch.device:
    """The device for `--device`: `auto` takes the first CUDA device, else the CPU.

    Raises:
        ConfigError: an unknown name, or a device that this machine does not have.
    """
    fix_workspace()  # before the first use of CUDA, which may be the next line
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            "--device cannot be used",
            found=name,
            expected="auto, cpu, cuda or cuda:N on a machine that has it",
        ) from error
    return device


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Run networks in "bfloat16" inside the block, losses in float32; other precisions are the weights' own.

    No loss scaling is needed: bfloat16 has the range of float32.
    """
    if precision != "bfloat16":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def weight_dtype(precision: str) -> torch.dtype:
    """The type of weights, images and losses where networks run in `precision`."""
    return torch.float64 if precision == "float64" else torch.float32


def fix_workspace() -> None:
    """Let cuBLAS repeat its products of matrices bit for bit; the user's own setting wins.

    It does so only with a workspace of fixed size, which it asks for once, at its first product. `istd` sets
    it at its start; a program that has used CUDA before it comes here without `CUBLAS_WORKSPACE_CONFIG` is
    told so.
    """
    if "CUBLAS_WORKSPACE_CONFIG" in os.environ:
        return
    if torch.cuda.is_initialized():
        warnings.warn(
            "CUDA was in use before CUBLAS_WORKSPACE_CONFIG was set, so two runs may differ in their "
            "last bits: set it to :4096:8 before the program starts",
            stacklevel=4,
        )
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"


@contextmanager
def deterministic() -> Iterator[None]:
    """Repeatable kernels and private random streams inside the block; everything is put back after it.

    An operation that has no repeatable kernel says so in a warning of torch, and runs. What `fix_workspace`
    sets stays.
    """
    fix_workspace()
    cudnn, fill = torch.backends.cudnn, torch.utils.deterministic
    before = (
        cudnn.benchmark,
        cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        fill.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )
    # Seeding reaches all GPUs, so all are put back. They are named, or torch warns where there are several.
    with torch.random.fork_rng(range(torch.cuda.device_count()), device_type="cuda"):
        try:
            cudnn.benchmark, cudnn.deterministic = False, True
            torch.use_deterministic_algorithms(True, warn_only=True)
            # Filling guards against reading a tensor before it is written, at the price of a pass over each.
            fill.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            yield
        finally:
            cudnn.benchmark, cudnn.deterministic = before[:2]
            torch.use_deterministic_algorithms(before[2], warn_only=before[3])
            fill.fill_uninitialized_memory = before[4]  # type: ignore[attr-defined]
