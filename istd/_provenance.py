"""How figures came about: what every file of results says of itself, so that they can be made again."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = (
    "bilevel-istd",
    "torch",
    "torchopt",
    "timm",
    "numpy",
    "opencv-python-headless",
    "scikit-learn",
)
# What a library reads at its start and what changes results or their speed. No variable here holds a path.
_ENVIRONMENT = (
    "ATEN_CPU",
    "CUBLAS_WORKSPACE",
    "CUDA_VISIBLE",
    "DNNL_",
    "GLIBC_TUNABLES",
    "GOMP_",
    "ISTD_TUNE",
    "KMP_",
    "MALLOC_",
    "MKL_",
    "NVIDIA_TF32",
    "OMP_",
    "ONEDNN_",
)


def provenance(command: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What one has to know to make figures again, as plain values for JSON.

    Call it where the figures are made: the settings of the process are those of this moment.

    Args:
        command: the call that makes them, for a POSIX shell; see `typed_command`.
        device: where they were made.

    Returns:
        "command", "code" (`code_version`), "versions" of packages, "machine" (processor, accelerator and the
        environment variables that matter), "threads" of torch and "determinism" (its switches).
    """
    return {
        "command": command,
        "code": dict(code_version()),
        "versions": versions(),
        "machine": machine(device),
        "threads": torch.get_num_threads(),
        "determinism": determinism(),
    }


def typed_command(program: Sequence[str] = ("istd",)) -> str:
    """The call of this process as it was typed: the folder, the number of threads, the words."""
    return f"cd {shlex.quote(str(Path.cwd()))} && {with_threads([*program, *sys.argv[1:]])}"


def with_threads(words: Sequence[str]) -> str:
    """A call for a POSIX shell, with this process's number of threads: sums are rounded by it."""
    return f"OMP_NUM_THREADS={torch.get_num_threads()} {shlex.join(words)}"


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    return found | {package: package_version(package) for package in _PACKAGES}


def package_version(package: str) -> str:
    """The version of an installed package, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


@cache
def code_version() -> dict[str, Any]:
    """The package's version, the commit of its checkout, and whether tracked files differ from it ("dirty").

    Commit and dirty are None for a package that was not run from a git checkout of its own. Asked for once:
    what a process has loaded does not change with the files.
    """
    folder = Path(__file__).resolve().parent
    described = None
    # An installed package may lie below somebody's repository, which does not track it.
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is not None:
        described = _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    commit = None if described is None else described.removesuffix("-dirty")
    dirty = None if described is None else described != commit
    return {"version": package_version("bilevel-istd"), "commit": commit, "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers; None if it is not there or refuses."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The processor, the accelerator in use, and the environment variables that change results or speed."""
    device = torch.device(device)
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "environment": {
            key: value for key, value in sorted(os.environ.items()) if key.startswith(_ENVIRONMENT)
        },
    }


def determinism() -> dict[str, Any]:
    """The switches of torch that decide whether kernels repeat themselves, and how they round."""
    kept = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    return {
        "algorithms": ("warn" if warns else "on") if kept else "off",
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
