"""The command line: every job in a process of its own; tables, a picture and all figures as JSON."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.command import new_parser, origin
from common.machine import load_warning
from common.processes import ending, worker_environment

from istd._files import write_text

from .cells import CELLS, ON_ONE_PROCESSOR
from .plot import plot
from .report import markdown
from .rows import Job, Row

# What is freed goes back to the system at once and nothing is taken in advance, so that a peak is what was in
# use. It costs time: the cells that measure times go without.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 12), "MALLOC_MMAP_MAX_": str(10**6), "MALLOC_TOP_PAD_": "0"}
_ALLOCATOR |= {"MALLOC_TRIM_THRESHOLD_": str(1 << 16), "PYTHONMALLOC": "malloc"}

_DESCRIPTION = """\
What istd's packing, training and evaluation cost in CPU seconds, peak memory and disk: against the number of
images, their size, crop and batch, the number of clusters K and the unroll steps T; and what that comes to at
a million images. Each measurement is a process of its own with one thread. About five minutes on a quiet
core. What several processes save is measured only if asked for (`--only ranks`), for it needs the other
processors too."""

_EPILOG = """\
cells:
  growth    every step that goes through all images, few and many, in memory and streamed from the packed file
  sizes     every step that looks at one whole image, up to 1080 × 1920
  steps     an inner step against crop and batch; an outer step against K and T
  clusters  k-means against the number of images
  ranks     a training epoch and a label evolution, shared by one and by two processes"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 if everything could be measured."""
    options = _parse(arguments)
    about = {**origin("scale_bench.py", arguments), "quick": options.quick}
    found: list[dict[str, Any]] = []
    for name in options.only:
        print(f"{name} …", flush=True)
        jobs = [{"cell": name, **job} for job in CELLS[name].jobs(options.quick)]
        found += _measure(jobs, options.timeout)
    rows = [Row(**row) for one in found for row in one["rows"]]
    failures = [f"{one['job']}: {one['failed']}" for one in found if one["failed"]]
    warning = load_warning([about["load"]])
    text = markdown(rows, about, [*failures, *([warning] if warning else [])])
    out: Path = options.out
    content = {**about, "rows": [asdict(row) for row in rows], "failures": failures}
    write_text(out / "results.json", json.dumps(content, indent=1))
    write_text(out / "results.md", text)
    said = plot(out / "plot.png", rows)
    print(text, said, sep="\n")
    return 1 if failures else 0


def _measure(jobs: list[Job], timeout: float) -> list[dict[str, Any]]:
    """What the worker wrote about each job."""
    environment = worker_environment() | {"OMP_NUM_THREADS": "1", "ISTD_TUNE_ALLOCATOR": "0"}
    if jobs[0]["cell"] == "growth":
        environment |= _ALLOCATOR
    with tempfile.TemporaryDirectory(prefix="scale_bench_") as folder:
        call = json.dumps({"jobs": jobs, "folder": folder})
        command = [sys.executable, "-m", "scale.worker", call]
        try:
            code = subprocess.run(command, env=environment, timeout=timeout, check=False).returncode
            reason = ending(code) if code else ""
        except subprocess.TimeoutExpired:
            reason = f"the cell took longer than {timeout:g} s"
        found = []
        for number, job in enumerate(jobs):
            path = Path(folder, f"{number}.json")
            missing: dict[str, Any] = {"rows": [], "load": None, "failed": reason or "nothing was written"}
            one = json.loads(path.read_text(encoding="utf-8")) if path.exists() else missing
            found.append({"job": job, **one})
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = new_parser("scale_bench.py", _DESCRIPTION, _EPILOG)
    add = parser.add_argument
    which, usual = list(CELLS), ON_ONE_PROCESSOR
    add("--only", nargs="+", choices=which, default=usual, metavar="CELL", help="which (all but ranks)")
    add("--quick", action="store_true", help="a smoke test: small images and networks")
    add("--timeout", type=float, default=1800.0, help="seconds until a cell is given up (%(default)g)")
    add("--out", type=Path, default=Path("runs/scale_bench"), help="folder to write to (%(default)s)")
    return parser.parse_args(arguments)
