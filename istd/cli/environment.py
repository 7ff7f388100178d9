"""Environment variables that have to be set before torch is loaded."""

from __future__ import annotations

import os


def set_environment() -> None:
    """Set what OpenMP and cuBLAS read when they begin; call before torch is imported, user's settings win.

    Waiting threads that spin slow down everything else on a busy machine (a seven-fold slower evaluation
    was measured with one of two cores taken). Without a workspace of fixed size products on CUDA do not
    repeat themselves bit for bit; see `istd.engine.runtime.deterministic`.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
