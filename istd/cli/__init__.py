"""The command `istd`."""

from __future__ import annotations

import sys

from .environment import set_environment


def main() -> None:
    """Run the command line; errors a user can act on are printed without a traceback and exit with 2."""
    set_environment()
    from .app import run

    sys.exit(run())
