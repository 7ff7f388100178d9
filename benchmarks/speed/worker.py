"""Measures one cell in a process of its own and writes what it found.

python -m speed.worker '{"cell": "inner", ...}'
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.processes import end_with_parent

from istd._files import write_text

from . import labels, measures, steps
from .ceiling import measure_ceiling
from .sides import Networks, Sides, threads
from .timing import Contest, Job, run

_WITH_NETWORKS: dict[str, Callable[[Networks], list[Contest]]] = {
    "inner": steps.inner,
    "outer": steps.outer,
    "evolution": labels.evolution,
    "evaluation": measures.evaluation,
    "epoch": steps.epoch,
}
_WITHOUT: dict[str, Callable[[Sides], list[Contest]]] = {
    "init": labels.init,
    "metrics": measures.metrics,
    "clustering": measures.clustering,
}
CELLS = ("inner", "outer", "init", "evolution", "metrics", "clustering", "evaluation", "epoch", "ceiling")


def measure(job: Job) -> dict[str, Any]:
    """The rows of a cell, or what the machine can do at most."""
    threads(job)
    name = job["cell"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "ceiling":
            return {"rows": [], "ceiling": measure_ceiling(Networks({**job, "reference": ""}))}
        contests = _WITHOUT[name](Sides(job)) if name in _WITHOUT else _WITH_NETWORKS[name](Networks(job))
        return {"rows": [asdict(run(contest, job)) for contest in contests], "ceiling": None}


def main() -> None:
    """Do the job given on the command line; its result goes to the file that it names."""
    end_with_parent()
    job = json.loads(sys.argv[1])
    write_text(Path(job["result"]), json.dumps(measure(job)))


if __name__ == "__main__":
    main()
