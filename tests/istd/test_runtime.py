"""What is set up before a run on a GPU, and put back after it; CUDA is made up."""

from __future__ import annotations

import os
import warnings

import pytest
import torch

from istd.engine.runtime import choose_device, deterministic


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two GPUs whose first use is noted; without a workspace for cuBLAS."""
    used: list[str] = []
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is put back
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: bool(used))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: None)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: used.append(f"read {device}"))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: used.append(f"put back {device}"))
    real = torch.empty

    def empty(*size: int, device: torch.device | None = None) -> torch.Tensor:
        used.append(str(device))
        return real(*size)

    monkeypatch.setattr(torch, "empty", empty)
    return used


def test_naming_a_gpu_is_no_use_of_cuda_that_a_user_is_warned_of(gpus: list[str]) -> None:
    """A run with device="cuda" looks at the device first: the workspace has to be set before."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_device("cuda").type == "cuda"
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        with deterministic():
            pass
    del os.environ["CUBLAS_WORKSPACE_CONFIG"]
    with pytest.warns(UserWarning, match="CUDA was in use before CUBLAS_WORKSPACE_CONFIG"), deterministic():
        pass


def test_the_random_streams_of_all_gpus_are_put_back_without_a_warning(
    gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch warns where several are put back by default."""
    monkeypatch.setattr(torch.random, "_fork_rng_warned_already", False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with deterministic():
            assert gpus == ["read 0", "read 1"]
    assert gpus[2:] == ["put back 0", "put back 1"]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
