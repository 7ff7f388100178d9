"""Seconds of istd beside those of the paper's public code, on the same images, in turns.

    python benchmarks/speed_bench.py --reference PATH/TO/CHECKOUT

See `--help` for what is measured and how.
"""

from __future__ import annotations

import sys

from common.interrupts import sigterm_as_exit
from speed.cli import main

if __name__ == "__main__":
    with sigterm_as_exit():
        sys.exit(main())
