"""Makes one cell: trains (or goes on), evaluates, and writes `cell.json`. A process of its own.

python -m detection.worker FOLDER
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import cv2
import torch
from common.machine import machine
from common.processes import end_with_parent
from hypergradient.memory import limit_memory
from rich.console import Console

from istd._files import write_json
from istd.engine import RunFolder, TrainConfig, choose_device, read_lines, tune_allocator
from istd.errors import IstdError

from . import small_unet
from .probe import Probe, read_probes
from .store import CellFolder, Result, read_json
from .training import CellTrainer
from .usage import Usage

_CURVES = {
    "label_iou": "label_iou_train",
    "pool": "pool_fraction",
    "val_student_iou": "val_student_iou",
    "val_teacher_iou": "val_teacher_iou",
    "loss": "loss",
    "weight_min": "weight_min",
    "weight_max": "weight_max",
}


def make_cell(folder: CellFolder, job: dict[str, Any]) -> Result:
    """Train and measure the cell of `job`; what `cell.json` is to hold.

    The result has "status" ("ok"), the run's own results, all of `job` (the request, the recipe, its places,
    the command of this cell, the commit), "groups", "curves" [[epoch, value], …], "probes", "usage" until the
    end of the training, "usage_total", and the machine.
    """
    started = machine(choose_device(job["request"]["config"]["device"]))
    request = job["request"]
    probe = Probe(folder.probes, **request["probe"]) if request["probe"] else None
    usage = Usage(folder.usage, probe)
    new = not RunFolder(folder.run).config.exists()
    trainer = CellTrainer(
        TrainConfig.from_dict(request["config"]) if new else None,
        folder.run,
        usage=usage,
        probe=probe,
        console=Console(width=120),
    )
    results = trainer.fit()
    model = trainer.detector.backbone
    return {
        "status": "ok",
        "reason": "",
        **{name: value for name, value in results.items() if name != "config"},
        **job,
        "groups": trainer.group_scores(),
        "curves": curves(RunFolder(folder.run).log),
        "probes": read_probes(folder.probes),
        "usage": read_json(folder.usage) or usage.now(),
        "usage_total": usage.now(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": trainer.config.epochs * trainer.steps_per_epoch(),
        "machine": started,
    }


def curves(log: Path) -> dict[str, list[tuple[int, float]]]:
    """Name → (epochs done, value) from a run's log."""
    lines = list(read_lines(log))
    return {
        name: [(line["epoch"] + 1, line[key]) for line in lines if line.get(key) is not None]
        for name, key in _CURVES.items()
    }


def failure(error: BaseException) -> str:
    """One line that says what went wrong."""
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, IstdError) else type(error).__name__ + (": " if text else "")
    out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return (("out of memory: " if out_of_memory else "") + kind + text)[:400]


def main() -> int:
    """Make the cell in the folder on the command line: 0, or 1 where it failed, 130 where it was stopped."""
    end_with_parent()
    folder = CellFolder(Path(sys.argv[1]))
    job = read_json(folder.job)
    if job is None:
        raise FileNotFoundError(folder.job)
    torch.set_num_threads(job["threads"])
    cv2.setNumThreads(job["threads"])
    if job["memory_limit"]:
        limit_memory(job["memory_limit"])
    tune_allocator()
    small_unet.register()
    print(f"process {os.getpid()}", flush=True)
    try:
        result = make_cell(folder, job)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        traceback.print_exc()
        limit = f" (its memory is limited to {job['memory_limit'] / 1e9:g} GB)" if job["memory_limit"] else ""
        write_json(folder.result, {"status": "failed", "reason": failure(error) + limit, **job})
        return 1
    write_json(folder.result, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
