"""What packing, training and evaluation cost against images, sizes, clusters, unroll steps and processes.

    python benchmarks/scale_bench.py

See `--help` for what is measured and how.
"""

from __future__ import annotations

import sys

from scale.cli import main

if __name__ == "__main__":
    sys.exit(main())
