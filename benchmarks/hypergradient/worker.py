"""Measures, and tells events. As a child process it writes them to its parent, one JSON object a line.

python -m hypergradient.worker '{"kind": "cell", ...}'
"""

from __future__ import annotations

import gc
import json
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from common.processes import end_with_parent

from bilevel.diagnostics._memory import LiveTensors

from .memory import ResidentPeak, limit_memory
from .methods import METHODS
from .peers import Answer, Run
from .tasks import Task, UnavailableError, build

MARK = "\x1e"  # starts an event's line; libraries may print what they like between


Event: TypeAlias = dict[str, Any]


def do(job: Event, *, alone: bool) -> Iterator[Event]:
    """The events of a job; what fails is an event.

    Args:
        job: "kind" ("cell" or "times"), "problem", "steps", "method" or "methods", and the settings.
        alone: whether this process does nothing else, so that its resident memory means something.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if job["kind"] == "times":
            yield from measure_times(job)
            return
        try:
            yield measure_cell(job, alone=alone)
        except UnavailableError as error:
            yield {"event": "skipped", "reason": str(error)}
        except Exception as error:
            yield {"event": "failed", "reason": _reason(error)}


def _vector(answer: Answer) -> list[float]:
    return torch.cat([value.detach().flatten().double() for value in answer.values]).tolist()


def _prepare(job: Event, method: str, dtype: torch.dtype) -> tuple[Task, Run]:
    task = build(job["problem"], job["steps"], dtype, job["seed"])
    return task, METHODS[method].prepare(task, job["steps"])


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:300] if lines else type(error).__name__


def _load_what_torch_loads_late() -> None:
    """One ordinary training step, so that every process has what torch imports then."""
    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.SGD([weight], lr=0.1, momentum=0.9).step()


def measure_cell(job: Event, *, alone: bool) -> Event:
    """Resident memory of the first hypergradient, tensor memory of the second, and the answer to check."""
    _load_what_torch_loads_late()
    task, run = _prepare(job, job["method"], torch.float32)
    trained = sum(parameter.nbytes for parameter in task.inner.parameters())
    resident = ResidentPeak()
    gc.collect()
    resident.start()
    answer = run()
    peak = resident.peak()
    vector = _vector(answer)
    note = answer.note
    gc.collect()
    with LiveTensors() as live:
        run()
    if job["check"] == "float64":
        vector = _vector(_prepare(job, job["method"], torch.float64)[1]())
    return {
        "event": "cell",
        "tensor_bytes": live.peak,
        "resident_bytes": peak if alone else 0,
        "resident_before_bytes": resident.before if alone else 0,
        "trajectory_bytes": (job["steps"] - 1) * trained,
        "vector": vector,
        "note": note,
    }


def measure_times(job: Event) -> Iterator[Event]:
    """Seconds of a hypergradient, the methods taking turns, each round in another order."""
    began = time.perf_counter()
    runs: dict[str, Run] = {}
    for method in job["methods"]:
        yield {"event": "start", "method": method}
        try:
            runs[method] = _prepare(job, method, torch.float32)[1]
            runs[method]()  # warm up
        except Exception as error:
            runs.pop(method, None)
            yield {"event": "failed", "method": method, "reason": _reason(error)}
    for turn in range(job["repeats"]):
        if turn and time.perf_counter() - began > job["budget"]:
            break
        names = list(runs)
        shift = turn % max(len(names), 1)
        for method in names[shift:] + names[:shift]:
            yield {"event": "start", "method": method}
            gc.collect()
            start = time.perf_counter()
            try:
                runs[method]()
            except Exception as error:
                runs.pop(method)
                yield {"event": "failed", "method": method, "reason": _reason(error)}
            else:
                yield {"event": "time", "method": method, "seconds": time.perf_counter() - start}


def main() -> None:
    """Do the job given on the command line, in a process of its own."""
    end_with_parent()
    job = json.loads(sys.argv[1])
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    if job["memory_limit"]:
        limit_memory(job["memory_limit"])
    for event in do(job, alone=True):
        print(MARK + json.dumps(event), flush=True)


if __name__ == "__main__":
    main()
