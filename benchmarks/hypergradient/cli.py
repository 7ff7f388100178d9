"""The command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from common.command import new_parser, origin
from common.machine import load_warning
from rich.console import Console

from .driver import Driver, Settings, all_methods
from .memory import available_memory
from .plot import plot
from .report import LEGEND, show_group, show_targets, write_json, write_markdown
from .rows import rows
from .store import Cell, Store
from .targets import targets
from .tasks import TASKS

_DESCRIPTION = """\
Time and memory of one hypergradient: bilevel's methods beside plain autograd, higher, TorchOpt, hypertorch
and Betty, for several numbers T of inner steps. The inner optimiser is SGD with momentum 0.9.

Each cell (problem, T, method) gets a process of its own for memory and for the check of its answer; then all
methods of a (problem, T) are timed in one process, in turns. A peer that is not installed, a cell that runs
out of memory or time, or that fails, is a row that says so. Leave the machine alone while it runs."""

_EPILOG = f"""\
columns:
{LEGEND}

problems:
  digits-mlp, digits-cnn, digits-cnn-bn  scikit-learn's digits, 40 % wrong  labels, batch 200, lr 0.1, and a
                                         meta-weight net of 193 parameters; MLP, conv net, with BatchNorm
  digits-mlp-clusters                    the MLP with 8 cluster weights, for ForwardMode
  mlclnet-64                             MLCLNet at 64×64, batch 4, lr 0.01, 8 cluster weights (extra: istd)

Peers that are on PyPI: pip install higher torchopt betty-ml scikit-learn matplotlib (betty-ml not on Python
3.11: put github.com/leopard-ai/betty on PYTHONPATH). hypertorch: github.com/prolearner/hypertorch."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 if every exact method that ran agrees with the reference."""
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 180)  # a log file has no width
    settings = Settings(
        repeats=options.repeats,
        budget=options.budget,
        threads=options.threads,
        seed=options.seed,
        check=options.check,
        memory_limit=_limit(options.memory_limit),
        timeout=options.timeout,
        isolate=options.isolate,
    )
    if options.threads and not options.isolate:
        torch.set_num_threads(options.threads)
    now = origin("hypergradient_bench.py", arguments)
    shown = {**asdict(settings), "torch": torch.__version__, "python": now["versions"]["python"]}
    # What memory happens to be free is no reason to measure again.
    kept = {key: value for key, value in shown.items() if key not in ("memory_limit", "timeout")}
    store = Store(options.out / "cells", kept)
    if not options.resume:
        store.clear()
    warning = "" if options.memory_only else load_warning([now["load"]])
    if warning:
        console.print(f"[yellow]{warning}[/]")
    driver = Driver(settings, store, lambda text: console.print(f"[dim]{text}[/]"), now["load"])
    cells: list[Cell] = []
    for problem in options.problems:
        for steps in options.steps:
            cells += driver.group(problem, steps, options.methods, timed=not options.memory_only)
            found = rows(cells)
            show_group(console, found[-len(options.methods) :])
            _write(options.out, found, shown, now)
    found = rows(cells)
    show_targets(console, targets(found))
    problem_with_plot = plot(options.out / "plot.png", found)
    if problem_with_plot:
        console.print(f"[yellow]{problem_with_plot}[/]")
    console.print(f"Written to {options.out}: results.json, results.md, plot.png, cells/")
    bound = 1e-9 if options.check == "float64" else 1e-2
    wrong = [
        row for row in found if row.exact and row.status == "ok" and (row.error is None or row.error > bound)
    ]
    for row in wrong:
        console.print(
            f"[red]{row.problem}, T = {row.steps}: {row.method} disagrees with {row.reference} "
            f"(relative error {row.error}, bound {bound:g})[/]"
        )
    return 1 if wrong else 0


def _write(out: Path, found: list[Any], settings: dict[str, Any], now: dict[str, Any]) -> None:
    write_json(out / "results.json", found, targets(found), settings, now)
    write_markdown(out / "results.md", found, targets(found), settings, now)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    methods = all_methods()
    parser = new_parser("hypergradient_bench.py", _DESCRIPTION, _EPILOG)
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/hypergradient_bench"), help="folder to write to (%(default)s)")
    add(
        "--quick",
        action="store_true",
        help="a smoke test: digits-mlp, T = 1 2, 2 rounds, --no-isolate, unless said otherwise",
    )
    add("--resume", action="store_true", help="keep the cells in --out measured under the same settings")
    add(
        "--memory-only",
        action="store_true",
        help="take no times: memory can be measured on a busy machine, times with --resume on an idle one",
    )
    add("--problems", nargs="+", choices=list(TASKS), metavar="NAME", help="which problems (all)")
    add("--steps", nargs="+", type=_positive, metavar="T", help="numbers of inner steps (1 5 20 100)")
    add(
        "--methods",
        nargs="+",
        choices=methods,
        metavar="NAME",
        default=methods,
        help="which methods (all): " + ", ".join(methods),
    )
    add(
        "--isolate",
        action=argparse.BooleanOptionalAction,
        help="a process for each measurement; without, resident memory stays unknown and limits do not hold "
        "(yes)",
    )
    add("--repeats", type=_positive, help="rounds of the timing (9)")
    add(
        "--budget",
        type=float,
        default=120.0,
        help="seconds of timing a (problem, T), one round or more (120)",
    )
    add("--threads", type=int, default=0, help="threads of torch; 0 is torch's choice (%(default)s)")
    add("--seed", type=int, default=0, help="of the problems (%(default)s)")
    add(
        "--check",
        choices=("float64", "float32"),
        default="float64",
        help="precision of the comparison; correct methods differ by 1e-4 in float32 (%(default)s)",
    )
    add(
        "--memory-limit",
        type=float,
        metavar="GB",
        help="memory a process may take, 0 for no limit (80 %% of what is free now)",
    )
    add("--timeout", type=float, default=3600.0, help="seconds until a process is given up (%(default)g)")
    options = parser.parse_args(arguments)
    options.problems = options.problems or (["digits-mlp"] if options.quick else list(TASKS))
    options.steps = sorted(set(options.steps or ([1, 2] if options.quick else [1, 5, 20, 100])))
    if options.isolate is None:
        options.isolate = not options.quick
    options.repeats = options.repeats or (2 if options.quick else 9)
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not ≥ 1")
    return value


def _limit(gigabytes: float | None) -> int:
    return int(available_memory() * 0.8) if gigabytes is None else int(gigabytes * 1e9)
