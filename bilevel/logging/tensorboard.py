"""Numbers for TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..errors import MissingDependencyError


class TensorBoard:
    """Scalars for TensorBoard. Steps that a resumed run takes again replace those of the run before.

    Args:
        log_dir: the folder of the event files.

    Raises:
        MissingDependencyError: the package `tensorboard` is not installed.
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependencyError(
                "a package is missing", where="TensorBoard", found=error, fix="pip install tensorboard"
            ) from error
        self._make: Any = SummaryWriter
        self._log_dir = os.fspath(log_dir)
        self._writer: Any = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add each number as a scalar."""
        if self._writer is None:
            self._writer = self._make(self._log_dir, purge_step=step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
