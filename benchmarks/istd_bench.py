"""The paper's table under one protocol: methods × backbones × seeds, ablations, baselines, spreads.

    python benchmarks/istd_bench.py --preset smoke
    python benchmarks/istd_bench.py --preset sirst --data PATH

See `--help` for what can be chosen, and benchmarks/README.md for what comes out.
"""

from __future__ import annotations

import sys

from detection.cli import run

if __name__ == "__main__":
    sys.exit(run())
