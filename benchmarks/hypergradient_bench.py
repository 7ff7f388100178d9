"""Time and memory of one hypergradient: bilevel's methods and those of other libraries, in one run.

    python benchmarks/hypergradient_bench.py --out runs/hypergradient_bench

See `--help` for what is measured and how.
"""

from __future__ import annotations

import sys

from common.interrupts import sigterm_as_exit
from hypergradient.cli import main

if __name__ == "__main__":
    with sigterm_as_exit():
        sys.exit(main())
