"""The command `istd`."""

from __future__ import annotations

import io
import sys

from .environment import set_environment


def main() -> None:
    """Run the command line; errors a user can act on are printed without a traceback and exit with 2."""
    set_environment()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        from .app import run
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        print("istd was installed without what it needs: pip install 'bilevel-istd[istd]'", file=sys.stderr)
        sys.exit(2)

    sys.exit(run())
