"""Environment variables that have to be set before torch is loaded."""

from __future__ import annotations

import os


def set_environment() -> None:
    """Set what OpenMP reads when it is loaded; call before torch is imported, user's settings win.

    Waiting threads that spin slow down everything else on a busy machine (a seven-fold slower evaluation
    was measured with one of two cores taken).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
