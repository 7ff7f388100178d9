"""What packing, training and evaluation cost against images, sizes, clusters, unroll steps and processes.

    python benchmarks/scale_bench.py

See `--help` for what is measured and how.
"""

from __future__ import annotations

import sys

from common.interrupts import sigterm_as_exit
from scale.cli import main

if __name__ == "__main__":
    with sigterm_as_exit():
        sys.exit(main())
