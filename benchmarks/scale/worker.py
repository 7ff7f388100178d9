"""Measures the jobs of a cell, each in a process of its own, and writes what it found.

python -m scale.worker '{"jobs": [{"cell": "growth", ...}], "folder": "..."}'

The processes are forks of this one, which has imported everything and done nothing, so that none of them pays
for imports or sees the memory of another.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import torch
from common.machine import load
from common.processes import end_with_parent, ending

from istd._files import write_text

from .cells import CELLS
from .rows import Job


def main() -> None:
    """Do the jobs given on the command line; job number n writes `n.json` into the folder."""
    end_with_parent()
    call = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for number, job in enumerate(call["jobs"]):
        result = Path(call["folder"], f"{number}.json")
        code = _in_child(job, result)
        if not result.exists():
            write_text(result, json.dumps({"rows": [], "load": None, "failed": ending(code)}))


def _in_child(job: Job, result: Path) -> int:
    """The exit code of a process that measures one job."""
    parent = str(os.getpid())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            end_with_parent(parent)
            write_text(result, json.dumps(_measure(job)))
            code = 0
        except Exception as error:  # what failed is a row; the other jobs are measured
            traceback.print_exc()
            write_text(
                result, json.dumps({"rows": [], "load": None, "failed": f"{type(error).__name__}: {error}"})
            )
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _measure(job: Job) -> dict[str, Any]:
    before = load()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="scale_bench_") as folder:
        warnings.simplefilter("ignore")
        rows = CELLS[job["cell"]].measure({**job, "folder": folder})
    return {"rows": [asdict(row) for row in rows], "load": before, "failed": ""}


if __name__ == "__main__":
    main()
