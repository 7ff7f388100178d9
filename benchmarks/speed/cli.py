"""The command line: every cell in a process of its own, kept when it is finished."""

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
from common.machine import busy
from common.processes import worker_environment

from istd._files import write_text

from .reference import REFERENCE_PARTS, missing_part
from .report import BUSY, Cell, Line, write_results
from .timing import Row
from .worker import CELLS

__all__ = ["REFERENCE_PARTS", "main"]

# 1 GiB: blocks below it come from the heap, and the heap is not given back.
_TUNED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
_TUNED["MALLOC_TOP_PAD_"] = str(64 << 20)

_DESCRIPTION = """\
Seconds of istd beside those of the public code of arXiv 2605.14346, on the same images and from the same
weights: in turns, in one process for each cell and allocator setting. Before a row is timed its results are
compared. Both sides get the same frozen model, DINOv3 ViT-S+/16 with random weights. Without --reference
ours is measured alone. Leave the machine alone while it runs."""

_EPILOG = """\
cells:
  inner, outer     a training step of either level, frozen maps included
  init, evolution  labels from points (canny); moving them, with the network and alone at 1080p
  metrics          all metrics of clean and of noisy predictions
  clustering       descriptors of an image; clusters of a table of descriptors
  evaluation       an image through student and teacher, with metrics
  epoch            steps with their loading; with all of the above, a whole epoch
  ceiling          the fastest product and copy of this machine, and the share of it that we reach

allocator settings, through glibc's environment variables, alike for both sides:
  default  as glibc comes; tuned  mmap and trim thresholds of 1 GiB, as istd's commands set them"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 if every cell was measured and all results that were compared are equal."""
    options = _parse(arguments)
    settings = {
        "backbone": options.backbone,
        "batch": options.batch or (2 if options.quick else 8),
        "crop": options.crop or (64 if options.quick else 256),
        "images": 8 if options.quick else 16,
        "epoch_steps": 2 if options.quick else 4,
        "repeats": options.repeats or (2 if options.quick else 7),
        "budget": options.budget,
        "threads": options.threads,
        "device": options.device,
        "vfm": options.vfm,
        "data": str(options.data or ""),
        "reference": str(options.reference or ""),
        "seed": options.seed,
    }
    allocators = ["default", "tuned"] if options.allocator == "both" else [options.allocator]
    now = origin("speed_bench.py", arguments, options.device)
    cells: list[Cell] = []
    found: list[Line] = []
    for name in options.only:
        for allocator in allocators:
            path = options.out / "cells" / f"{name}--{allocator}.json"
            cell = _kept(path, settings) if options.resume else None
            if cell is None:
                print(f"{name}, {allocator} allocator …", flush=True)
                used = busy()
                if used is not None and used > BUSY:
                    print(f"{used:.0%} of this machine is in use by others: times will scatter.")
                cell = _measure(name, allocator, settings, options.timeout)
                cell.busy, cell.commit = used, now["code"]["commit"] or ""
                write_text(path, json.dumps({"settings": settings, "cell": asdict(cell)}))
            cells.append(cell)
            found = write_results(options.out, cells, settings, now)
    print((options.out / "results.md").read_text(encoding="utf-8"))
    failed = any(cell.status != "ok" for cell in cells)
    return 1 if failed or any(line.equal is False for line in found) else 0


def _measure(name: str, allocator: str, settings: dict[str, Any], timeout: float) -> Cell:
    """Run the cell's process and read what it wrote; a failure is a cell that says so."""
    cell = Cell(name, allocator)
    environment = {key: value for key, value in worker_environment().items() if key not in _TUNED}
    environment["ISTD_TUNE_ALLOCATOR"] = "0"
    if settings["threads"]:
        environment["OMP_NUM_THREADS"] = str(settings["threads"])
    if allocator == "tuned":
        environment |= _TUNED
    with tempfile.TemporaryDirectory(prefix="speed_bench_") as folder:
        job = {**settings, "cell": name, "result": str(Path(folder, "result.json")), "folder": folder}
        command = [sys.executable, "-m", "speed.worker", json.dumps(job)]
        try:
            done = subprocess.run(
                command, env=environment, timeout=timeout, capture_output=True, text=True, check=False
            )
        except subprocess.TimeoutExpired:
            cell.status, cell.reason = "failed", f"took longer than {timeout:g} s"
            return cell
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [""])[-1]
            cell.status, cell.reason = "failed", f"code {done.returncode}: {last}"[:300]
            return cell
        result = json.loads(Path(job["result"]).read_text(encoding="utf-8"))
    cell.rows = [Row(**row) for row in result["rows"]]
    cell.ceiling = result["ceiling"]
    return cell


def _kept(path: Path, settings: dict[str, Any]) -> Cell | None:
    """A finished cell measured under these settings."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        cell = Cell(**content["cell"])
        cell.rows = [Row(**row) for row in content["cell"]["rows"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return cell if content["settings"] == settings and cell.status == "ok" else None


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = new_parser("speed_bench.py", _DESCRIPTION, _EPILOG)
    add = parser.add_argument
    add("--reference", type=Path, help="a checkout of github.com/yuanhang-yao/semantic-prior")
    add("--data", type=Path, help="a dataset with masks; generated images if not given")
    add(
        "--only",
        nargs="+",
        choices=list(CELLS),
        default=list(CELLS),
        metavar="CELL",
        help="which cells (all)",
    )
    add("--threads", type=int, default=0, help="of every library; 0 for all cores (%(default)s)")
    add("--repeats", type=int, default=0, help="rounds of the timing (7)")
    add(
        "--budget",
        type=float,
        default=180.0,
        help="seconds of timing a row; a round is finished (%(default)g)",
    )
    add("--allocator", choices=("default", "tuned", "both"), default="both", help="(%(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    add("--backbone", choices=("mlclnet", "alclnet"), default="mlclnet", help="(%(default)s)")
    add("--batch", type=int, default=0, help="crops in a batch (8)")
    add("--crop", type=int, default=0, help="their side in pixels, a multiple of 32 (256)")
    add("--vfm", default="random:vit_small_plus_patch16_dinov3", help="the frozen model (%(default)s)")
    add("--quick", action="store_true", help="a smoke test: 2 crops of 64 pixels, 2 rounds")
    add("--seed", type=int, default=0, help="(%(default)s)")
    add("--timeout", type=float, default=3600.0, help="seconds until a cell is given up (%(default)g)")
    add("--out", type=Path, default=Path("runs/speed_bench"), help="folder to write to (%(default)s)")
    add("--resume", action="store_true", help="keep the finished cells in --out of the same settings")
    options = parser.parse_args(arguments)
    if options.crop % 32:
        parser.error(f"--crop {options.crop} is not a multiple of 32, to which the reference pads")
    if options.reference is not None:
        options.reference = options.reference.resolve()
        missing = missing_part(options.reference)
        if missing:
            parser.error(
                f"--reference {options.reference} is no checkout of the reference: {missing} is missing"
            )
    if options.data is not None:
        options.data = options.data.resolve()
    return options
