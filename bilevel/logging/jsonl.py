"""Numbers as JSON lines in a file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import StateError


class JsonLines:
    """One JSON object a line, `{"step": ..., name: number, ...}`; numbers that are not finite become null.

    Each line is on disk when `write` returns. A new sink appends to a file that is there. After
    `Solver.load_state_dict` the file is cut back to where it was when the state was saved, so that no step
    stands there twice.

    Args:
        path: the file; its folder is made if it is missing.

    Raises:
        StateError: on loading, if the file is shorter than it was.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line."""
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps({"step": step, **numbers}, allow_nan=False) + "\n")

    def close(self) -> None:
        """Nothing is pending."""

    def state_dict(self) -> dict[str, Any]:
        """The file's length in bytes."""
        return {"bytes": self._length()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Cut the file back to the saved length."""
        if self._length() < state["bytes"]:
            raise StateError(
                "the log is shorter than it was when the state was saved",
                where=str(self.path),
                found=f"{self._length()} bytes",
                expected=f"at least {state['bytes']} bytes",
                fix="put the old log there, or log to a new sink added after loading",
            )
        if self.path.exists():
            os.truncate(self.path, state["bytes"])

    def _length(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0
