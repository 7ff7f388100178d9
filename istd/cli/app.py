"""`istd`: one command with subcommands, one file each. Heavy imports happen inside the commands.

What exists already: commands that make data or runs refuse to replace it (`points` and `pack` replace it with
--force, `train` goes on with --resume, `demo` replaces its own earlier folder); answers, reports, pictures
and exported files are overwritten (`predict`, `eval`, `report`, `labels`, `export`).
"""

from __future__ import annotations

import os
import sys
import warnings
from functools import partial
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import IstdError
from .annotate import annotate
from .demo import demo
from .doctor import doctor
from .eval import evaluate_run
from .export import export
from .labels import labels
from .pack import pack_dataset
from .points import points
from .predict import predict
from .report import report
from .synth import synth
from .train import train

app = typer.Typer(
    name="istd",
    help="Infrared small target detection from one point per target. Start with: istd demo",
    epilog="Exit codes: 0 all is well; 1 done, but something was left out (predict, eval) or faults were "
    "found (doctor); 2 an error you can mend; 130 stopped by Ctrl-C.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("annotate")(annotate)
app.command("demo")(demo)
app.command("train")(train)
app.command("eval")(evaluate_run)
app.command("predict")(predict)
app.command("export")(export)
app.command("report")(report)
app.command("doctor")(doctor)
app.command("points")(points)
app.command("synth")(synth)
app.command("pack")(pack_dataset)
app.command("labels")(labels)


def run() -> int:
    """Run the command line.

    Returns:
        The exit code: 0 where all is well; 1 where the command did its work, but some of it was left out
        (`predict`, `eval`) or it found faults (`doctor`); 2 for an error that the user can mend; 130 for
        Ctrl-C.
    """
    console = Console(stderr=True)
    warnings.showwarning = partial(_show_warning, console)
    try:
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        # Of OSError this is no more than a net: the system names the file, and our own errors say more.
        if isinstance(error, IstdError | OSError) or _is_bilevel_error(error):
            said = f"[bold red]error{_of_process()}[/bold red] {escape(str(error))}"
            console.print(said, highlight=False, soft_wrap=True)
            return 2
        if _is_out_of_memory(error):
            said = f"{_OUT_OF_MEMORY}\n  found:    {escape(str(error).partition(chr(10))[0])}"
            console.print(
                f"[bold red]error{_of_process()}[/bold red] {said}", highlight=False, soft_wrap=True
            )
            return 2
        # A usage error: click's class, or the one of typer's own copy of click, depending on its version.
        show = getattr(error, "show", None)
        if show is None or not hasattr(error, "exit_code"):
            raise
        show()
        return 2
    return code if isinstance(code, int) else 0


def _of_process() -> str:
    """Which of several processes this is (torchrun sets these variables); nothing in a single one."""
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    return f" in process {os.environ.get('RANK', '?')}" if several else ""


def _is_bilevel_error(error: Exception) -> bool:
    # Looked up, not imported: a command that never loaded `bilevel` (and torch) cannot have failed in it.
    bilevel = sys.modules.get("bilevel")
    return bilevel is not None and isinstance(error, bilevel.BilevelError)


_OUT_OF_MEMORY = """the memory of the machine or of its GPU is full
  mend:     eval, predict: cut large images with --tile 512, fewer at once with --batch-size
            train: a smaller --batch-size or --crop; cut images of many megapixels into smaller ones"""


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    return on_gpu or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)


def _show_warning(console: Console, message: Warning | str, *where: Any, **more: Any) -> None:
    """Print a warning as one line; where in the code it arose means nothing to a user."""
    console.print(f"[yellow]note[/yellow] {escape(str(message))}", highlight=False, soft_wrap=True)
