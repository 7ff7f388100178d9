"""The command line."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from common.command import shown_command
from rich.console import Console
from rich.markup import escape

from istd.data import SyntheticDataset, pack
from istd.engine import choose_device
from istd.engine.pack_cache import packed
from istd.errors import ConfigError, IstdError
from istd.models import list_models

from .axes import AXES, asked, find_axis
from .bench import Bench
from .cells import Base, Cell, plan
from .options import chosen, parse_settings, spread_values
from .pool import Limits, default_jobs
from .presets import METHODS, PRESETS, Preset, Synthetic
from .store import Store

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_PRESETS = "\n\n".join(f"{name}: {preset.about}." for name, preset in PRESETS.items())


@app.command(
    epilog="Cells that are done are kept, and a stopped or killed one goes on where it was. Exit codes: 0 "
    "all cells have a result; 1 some failed or were not run; 2 an error you can mend; 130 stopped."
)
def bench(
    preset: Annotated[str, typer.Option(help=_PRESETS)] = "smoke",
    data: Annotated[
        str, typer.Option(help="The dataset, as for `istd train`. smoke generates its own.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Folder to write to (runs/istd_bench/PRESET).")] = None,
    methods: Annotated[list[str] | None, typer.Option(help=" ".join(METHODS) + " (all).")] = None,
    backbones: Annotated[list[str] | None, typer.Option(help="Names of networks (the preset's).")] = None,
    seeds: Annotated[list[str] | None, typer.Option(help="Numbers (the preset's).")] = None,
    ablations: Annotated[
        list[str] | None,
        typer.Option(
            help="Of semantic-prior: " + " ".join(AXES) + ", any setting that has choices, or "
            "SETTING=VALUE,VALUE; none for none (the preset's)."
        ),
    ] = None,
    ablation_seeds: Annotated[
        int | None, typer.Option(min=1, help="How many of the seeds the ablations take (the preset's).")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE for every cell, or ROW.NAME=VALUE, such as lesps.lr=5e-4."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run only cells whose name matches one of these shell patterns.")
    ] = None,
    limit_cells: Annotated[int, typer.Option(min=0, help="Run at most so many cells; 0 is no limit.")] = 0,
    jobs: Annotated[
        int, typer.Option(min=0, help="Cells at a time; 0 is one a core, or one in all on a GPU.")
    ] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each cell.")] = 1,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds until a cell is given up for this time; 0 is never.")
    ] = 0.0,
    memory_limit: Annotated[
        float, typer.Option(min=0, help="GB that a cell may allocate on the host; 0 is no limit.")
    ] = 0.0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Make the chosen cells again from the start.")
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Run nothing; write the tables.")
    ] = False,
) -> int:
    """Train and test methods under one protocol, one process a cell (method × backbone × seed × settings).

    Writes results.json, results.md, plots and one folder a cell.
    """
    console = Console(width=None if sys.stdout.isatty() else 200)
    if preset not in PRESETS:
        raise ConfigError("--preset is unknown", found=preset, expected=" | ".join(PRESETS))
    numbers = PRESETS[preset]
    out = out if out is not None else Path("runs/istd_bench") / preset
    base = Base.of(preset, numbers, _data(data, numbers, out, console), parse_settings(settings or []))
    cells = plan(
        base,
        numbers,
        methods=chosen(methods, METHODS, METHODS),
        backbones=chosen(backbones, numbers.backbones, list_models()),
        seeds=_numbers(chosen(seeds, [str(seed) for seed in numbers.seeds])),
        axes=dict(map(find_axis, chosen(ablations, numbers.ablations))),
        ablation_seeds=ablation_seeds or numbers.ablation_seeds,
    )
    on_gpu = choose_device(cells[0].config["device"]).type == "cuda" if cells else False
    runner = Bench(
        store=Store(out / "cells", lambda: packed(base.data).content_hash()),
        out=out,
        base=base,
        limits=Limits(jobs or default_jobs(threads, on_gpu), threads, timeout, int(memory_limit * 1e9)),
        # What makes the cells: a report alone makes none.
        command=shown_command("istd_bench.py", [word for word in sys.argv[1:] if word != "--report-only"]),
        cell_command=lambda cell: _cell_command(preset, data, settings or [], threads, cell),
        console=console,
    )
    if not report_only:
        runner.run(cells, only=chosen(only, ["*"]), limit=limit_cells, fresh=fresh)
    return 0 if runner.report(cells) else 1


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    try:
        code = app(spread_values(sys.argv[1:] if arguments is None else arguments), standalone_mode=False)
    except KeyboardInterrupt:
        return 130
    except IstdError as error:
        Console(stderr=True).print(f"[bold red]error[/bold red] {escape(str(error))}", soft_wrap=True)
        return 2
    except Exception as error:
        # A usage error: click's class, or the one of typer's own copy of click, depending on its version.
        show = getattr(error, "show", None)
        if show is None or not hasattr(error, "exit_code"):
            raise
        show()
        return 2
    return code if isinstance(code, int) else 0


def _data(data: str, preset: Preset, out: Path, console: Console) -> str:
    """The dataset's path; a preset with generated images makes them once.

    Raises:
        ConfigError: the preset needs `--data`, or it is not there.
    """
    if data:
        path = Path(data).expanduser().resolve()
        if not path.exists():
            raise ConfigError("--data is not there", found=path)
        return str(path)
    if preset.synthetic is None:
        raise ConfigError("--data is missing", expected="the folder of a dataset, or a packed .h5 file")
    return str(_generate(preset.synthetic, out, console))


def _generate(images: Synthetic, out: Path, console: Console) -> Path:
    size = "x".join(map(str, images.size))
    name = f"synthetic-{images.train}-{images.val}-{images.test}-{size}-{images.seed}.h5"
    path = (out / name).resolve()
    if not path.exists():
        console.print("[dim]generating images[/dim]")
        dataset = SyntheticDataset(images.train, images.val, images.test, images.size, images.seed)
        pack(dataset, path)
    return path


def _numbers(seeds: list[str]) -> list[int]:
    wrong = [seed for seed in seeds if not seed.isdecimal()]
    if wrong:
        raise ConfigError("--seeds takes numbers from 0 on", found=", ".join(wrong))
    return [int(seed) for seed in seeds]


def _cell_command(preset: str, data: str, settings: list[str], threads: int, cell: Cell) -> str:
    words: list[Any] = ["python", "benchmarks/istd_bench.py", "--preset", preset]
    words += ["--data", "DATA"] if data else []
    recipe = cell.recipe
    words += ["--methods", recipe.row.partition(",")[0]]
    words += [] if recipe.row.startswith("small-unet") else ["--backbones", recipe.backbone]
    words += ["--seeds", recipe.seed, "--threads", threads, "--ablations"]
    words += [f"{name}={value}" for name, value in asked(recipe.changes).items()]
    if cell.probe and not recipe.changes:
        words += [f"hypergradient={cell.config['hypergradient']}"]
    words += [] if recipe.changes or cell.probe else ["none"]
    words += ["--set", *settings] if settings else []
    return shlex.join(map(str, [*words, "--only", cell.slug]))
